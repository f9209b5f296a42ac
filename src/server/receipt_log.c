#include "server/receipt_log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"

typedef struct ReceiptEntry {
    struct ReceiptEntry *next;
    char name[RECEIPT_TEXT_BYTES + 8];
    Buf text;
} ReceiptEntry;

typedef struct ReceiptName {
    char text[RECEIPT_TEXT_BYTES + 8];
    int64_t written_ns;
} ReceiptName;

struct ReceiptLog {
    char *dir;
    int64_t files_max;
    ReceiptName *name; /* [files_max] ring of the files there are */
    int64_t first, n_files;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t work;
    ReceiptEntry *head, *tail;
    size_t waiting_bytes;
    bool stop;
};

static void receipt_log_remove_oldest(ReceiptLog *log) {
    char *path = file_join(log->dir, log->name[log->first].text);
    if (unlink(path) != 0 && errno != ENOENT)
        log_line(LOG_WARN, "receipts", "'%s' cannot be removed: %s", path, strerror(errno));
    mem_free(path);
    log->first = (log->first + 1) % log->files_max;
    log->n_files--;
}

static Status receipt_log_file(const char *path, const Buf *text, Err *err) {
    FileWriter writer;
    TRY(file_writer_open(&writer, path, err));
    if (fwrite(text->data, 1, text->len, writer.stream) != text->len) {
        file_writer_abort(&writer);
        FAIL(err, ERR_IO, "'%s' cannot be written: %s", path, strerror(errno));
    }
    return file_writer_commit(&writer, err);
}

static void receipt_log_write(ReceiptLog *log, const ReceiptEntry *entry) {
    if (log->n_files == log->files_max) receipt_log_remove_oldest(log);
    char *path = file_join(log->dir, entry->name);
    Err err = {0};
    if (receipt_log_file(path, &entry->text, &err) == OK) {
        ReceiptName *name = &log->name[(log->first + log->n_files++) % log->files_max];
        snprintf(name->text, sizeof name->text, "%s", entry->name);
    } else {
        log_line(LOG_WARN, "receipts", "%s", err.text);
    }
    mem_free(path);
}

static void *receipt_log_main(void *context) {
    ReceiptLog *log = context;
    pthread_mutex_lock(&log->lock);
    while (log->head != NULL || !log->stop) {
        ReceiptEntry *entry = log->head;
        if (entry == NULL) {
            pthread_cond_wait(&log->work, &log->lock);
            continue;
        }
        log->head = entry->next;
        if (log->head == NULL) log->tail = NULL;
        pthread_mutex_unlock(&log->lock);
        receipt_log_write(log, entry);
        pthread_mutex_lock(&log->lock);
        log->waiting_bytes -= entry->text.len;
        buf_free(&entry->text);
        mem_free(entry);
    }
    pthread_mutex_unlock(&log->lock);
    return NULL;
}

static int receipt_log_older(const void *a, const void *b) {
    int64_t m = ((const ReceiptName *)a)->written_ns, n = ((const ReceiptName *)b)->written_ns;
    return (m > n) - (m < n);
}

/* The receipts of earlier runs, oldest first; more than fit are removed. */
static Status receipt_log_scan(ReceiptLog *log, Err *err) {
    DIR *dir = opendir(log->dir);
    if (dir == NULL) FAIL(err, ERR_IO, "'%s' cannot be read: %s", log->dir, strerror(errno));
    ReceiptName *found = NULL;
    size_t n = 0, max = 0;
    const struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        Str name = str_from(entry->d_name);
        struct stat info;
        if (!str_ends_with(name, ".json") || name.len >= sizeof found->text ||
            fstatat(dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(info.st_mode))
            continue;
        if (n == max) {
            max = MAX(max * 2, 64);
            ReceiptName *grown = realloc(found, max * sizeof *found);
            CHECK(grown != NULL);
            found = grown;
        }
        memcpy(found[n].text, name.ptr, name.len + 1);
        found[n++].written_ns = info.st_mtim.tv_sec * 1000000000LL + info.st_mtim.tv_nsec;
    }
    closedir(dir);
    if (n > 0) qsort(found, n, sizeof *found, receipt_log_older);
    for (size_t i = 0; i < n; i++) {
        if (log->n_files == log->files_max) receipt_log_remove_oldest(log);
        log->name[(log->first + log->n_files++) % log->files_max] = found[i];
    }
    free(found);
    return OK;
}

static Status receipt_log_start(ReceiptLog *log, Err *err) {
    if (mkdir(log->dir, 0700) != 0 && errno != EEXIST)
        FAIL(err, ERR_IO, "'%s' cannot be made: %s", log->dir, strerror(errno));
    log->name = mem_try_alloc((size_t)log->files_max, sizeof *log->name);
    if (log->name == NULL) FAIL(err, ERR_NOMEM, "no memory for the names of receipts");
    TRY(receipt_log_scan(log, err));
    if (pthread_create(&log->thread, NULL, receipt_log_main, log) != 0)
        FAIL(err, ERR_IO, "cannot start the thread that writes receipts");
    log->started = true;
    return OK;
}

Status receipt_log_open(ReceiptLog **out, const char *dir, int64_t files_max, Err *err) {
    ReceiptLog *log = mem_alloc(sizeof *log);
    log->dir = mem_strdup(dir);
    log->files_max = files_max;
    pthread_mutex_init(&log->lock, NULL);
    pthread_cond_init(&log->work, NULL);
    Status status = receipt_log_start(log, err);
    if (status == OK) {
        *out = log;
    } else {
        receipt_log_close(log);
    }
    return status;
}

bool receipt_log_add(ReceiptLog *log, const Receipt *receipt) {
    ReceiptEntry *entry = mem_alloc(sizeof *entry);
    snprintf(entry->name, sizeof entry->name, "%s.json", receipt->id);
    entry->text.bytes_max = RECEIPT_BYTES_MAX;
    receipt_write(receipt, &entry->text);
    pthread_mutex_lock(&log->lock);
    bool fits = !entry->text.failed &&
                log->waiting_bytes + entry->text.len <= RECEIPT_LOG_WAITING_BYTES_MAX;
    if (fits) {
        log->waiting_bytes += entry->text.len;
        if (log->tail != NULL) log->tail->next = entry;
        log->tail = entry;
        if (log->head == NULL) log->head = entry;
        pthread_cond_signal(&log->work);
    }
    pthread_mutex_unlock(&log->lock);
    if (!fits) {
        buf_free(&entry->text);
        mem_free(entry);
    }
    return fits;
}

void receipt_log_close(ReceiptLog *log) {
    if (log == NULL) return;
    if (log->started) {
        pthread_mutex_lock(&log->lock);
        log->stop = true;
        pthread_cond_signal(&log->work);
        pthread_mutex_unlock(&log->lock);
        pthread_join(log->thread, NULL);
    }
    pthread_mutex_destroy(&log->lock);
    pthread_cond_destroy(&log->work);
    mem_free(log->name);
    mem_free(log->dir);
    mem_free(log);
}
