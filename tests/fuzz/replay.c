/* replay: runs one fuzz target over files and folders of inputs, without a fuzzer.
 *
 * Linked with each fuzz_*.c in every config but fuzz. Prints how many inputs it ran; a crash or a
 * sanitizer's report is the failure. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"

#include <dirent.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { REPLAY_BYTES_MAX = 1 << 26 };

static int replay_file(const char *path) {
    Buf buf = {0};
    Err err = {0};
    if (file_read(&buf, path, REPLAY_BYTES_MAX, &err) != OK) {
        fprintf(stderr, "replay: %s\n", err.text);
        return -1;
    }
    /* A block of exactly this size, so that a read past its end is seen. */
    uint8_t *data = mem_alloc(buf.len);
    if (buf.len > 0) memcpy(data, buf.data, buf.len);
    LLVMFuzzerTestOneInput(data, buf.len);
    mem_free(data);
    buf_free(&buf);
    return 1;
}

/* Runs every file of a folder; returns their number, or -1. */
static int replay_folder(const char *folder) {
    DIR *dir = opendir(folder);
    if (dir == NULL) return -1;
    int n = 0;
    for (struct dirent *entry; n >= 0 && (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        char *path = file_join(folder, entry->d_name);
        n = replay_file(path) < 0 ? -1 : n + 1;
        mem_free(path);
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv) {
    int n_inputs = 0;
    for (int i = 1; i < argc; i++) {
        int n = file_is_dir(argv[i]) ? replay_folder(argv[i]) : replay_file(argv[i]);
        if (n < 0) return 1;
        n_inputs += n;
    }
    printf("%d inputs\n", n_inputs);
    return 0;
}
