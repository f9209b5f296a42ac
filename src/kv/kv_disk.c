#include "kv/kv_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"

enum { KV_DISK_HEADER_BYTES = 4096 };
static const char KV_DISK_MAGIC[8] = {'S', 'L', 'K', 'V', 'D', 'S', 'K', '1'};

typedef struct KvDiskHeader {
    char magic[8];
    uint64_t identity[2], salt_seed;
    int64_t payload_bytes;
    int32_t block_tokens, n_records;
    uint64_t checksum; /* of all before */
} KvDiskHeader;

/* A record: this, the tokens, the payload, and a checksum of the three. */
typedef struct KvDiskRecord {
    uint64_t written; /* counts up: the newest record has the largest */
    KvDiskEntry entry;
} KvDiskRecord;

typedef enum KvDiskState { KV_DISK_FREE, KV_DISK_FILLED, KV_DISK_QUEUED } KvDiskState;

struct KvDisk {
    KvDiskOptions options;
    KvDiskHeader header;
    int fd;
    char *path;
    int64_t record_bytes;
    char *buffer; /* [KV_DISK_BUFFERS][record_bytes] */
    KvDiskState state[KV_DISK_BUFFERS];
    int32_t number[KV_DISK_BUFFERS];
    int32_t queue[KV_DISK_BUFFERS], n_queued;
    uint64_t *owner; /* [n_records] prefix hash that a record holds; 0: none */
    int32_t next;    /* record to overwrite next */
    uint64_t n_written;
    KvDiskEntry *entry; /* of the scan */
    int32_t *entry_number;
    bool stop, has_thread, has_failed;
    pthread_mutex_t lock;
    pthread_cond_t work;
    pthread_t thread;
};

static int64_t kv_disk_record_bytes(const KvDiskOptions *o) {
    return (int64_t)sizeof(KvDiskRecord) + o->block_tokens * (int64_t)sizeof(int32_t) +
           o->payload_bytes + (int64_t)sizeof(uint64_t);
}

int64_t kv_disk_bytes(const KvDiskOptions *o) {
    return (int64_t)sizeof(KvDisk) + KV_DISK_BUFFERS * kv_disk_record_bytes(o) +
           o->n_records * (int64_t)sizeof(uint64_t);
}

static int64_t kv_disk_offset(const KvDisk *disk, int32_t number) {
    return KV_DISK_HEADER_BYTES + number * disk->record_bytes;
}

static char *kv_disk_buffer(const KvDisk *disk, int32_t buffer) {
    return disk->buffer + buffer * disk->record_bytes;
}

static uint64_t kv_disk_checksum(const KvDisk *disk, const char *record) {
    return hash_bytes(record, (size_t)disk->record_bytes - sizeof(uint64_t), 0);
}

static bool kv_disk_write_all(int fd, const void *data, size_t len, int64_t offset) {
    const char *p = data;
    while (len > 0) {
        const ssize_t n = pwrite(fd, p, len, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        p += n;
        offset += n;
        len -= (size_t)n;
    }
    return true;
}

/* The bytes, or false when the file ends before. */
static bool kv_disk_read_all(int fd, void *data, size_t len, int64_t offset) {
    char *p = data;
    while (len > 0) {
        const ssize_t n = pread(fd, p, len, offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        p += n;
        offset += n;
        len -= (size_t)n;
    }
    return true;
}

/* ---- opening ----------------------------------------------------------------------------- */

static Status kv_disk_open_file(KvDisk *disk, Err *err) {
    const char *dir = disk->options.dir;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        FAIL(err, ERR_IO, "the folder '%s' cannot be made: %s", dir, strerror(errno));
    }
    disk->path = file_join(dir, "prefix.kv");
    disk->fd = open(disk->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (disk->fd < 0) FAIL(err, ERR_IO, "'%s' cannot be opened: %s", disk->path, strerror(errno));
    if (flock(disk->fd, LOCK_EX | LOCK_NB) != 0) {
        FAIL(err, ERR_IO, "'%s' is in use by another process", disk->path);
    }
    return OK;
}

static uint64_t kv_disk_header_checksum(const KvDiskHeader *header) {
    return hash_bytes(header, offsetof(KvDiskHeader, checksum), 0);
}

/* What is wrong with the file's header; NULL: nothing. */
static const char *kv_disk_refusal(const KvDiskHeader *have, const KvDiskHeader *want) {
    if (memcmp(have->magic, want->magic, sizeof have->magic) != 0) return "is not of this kind";
    if (have->checksum != kv_disk_header_checksum(have)) return "has a damaged header";
    if (memcmp(have->identity, want->identity, sizeof have->identity) != 0) {
        return "is of another model, number format or build";
    }
    if (have->block_tokens != want->block_tokens) return "has blocks of another size";
    if (have->payload_bytes != want->payload_bytes || have->n_records != want->n_records) {
        return "has records of another size or number";
    }
    return NULL;
}

/* Takes the file's header over, or empties the file and writes a new one. */
static Status kv_disk_open_header(KvDisk *disk, Err *err) {
    const KvDiskOptions *o = &disk->options;
    KvDiskHeader *want = &disk->header, have;
    memset(want, 0, sizeof *want); /* the padding is hashed */
    memcpy(want->magic, KV_DISK_MAGIC, sizeof want->magic);
    memcpy(want->identity, o->identity, sizeof want->identity);
    want->salt_seed = o->salt_seed;
    want->payload_bytes = o->payload_bytes;
    want->block_tokens = o->block_tokens;
    want->n_records = o->n_records;
    want->checksum = kv_disk_header_checksum(want);
    struct stat st;
    if (fstat(disk->fd, &st) != 0) FAIL(err, ERR_IO, "'%s': %s", disk->path, strerror(errno));
    if (st.st_size > 0) {
        const bool whole = kv_disk_read_all(disk->fd, &have, sizeof have, 0);
        const char *refusal = whole ? kv_disk_refusal(&have, want) : "is cut short";
        if (refusal == NULL) {
            *want = have;
            return OK;
        }
        log_line(LOG_WARN, "kv", "'%s' %s: the cache begins cold", disk->path, refusal);
    }
    if (ftruncate(disk->fd, 0) != 0 || !kv_disk_write_all(disk->fd, want, sizeof *want, 0)) {
        FAIL(err, ERR_IO, "'%s' cannot be written: %s", disk->path, strerror(errno));
    }
    return OK;
}

Status kv_disk_open(KvDisk **out, const KvDiskOptions *options, Err *err) {
    KvDisk *disk = mem_alloc(sizeof *disk);
    disk->options = *options;
    disk->fd = -1;
    disk->record_bytes = kv_disk_record_bytes(options);
    CHECK(pthread_mutex_init(&disk->lock, NULL) == 0);
    CHECK(pthread_cond_init(&disk->work, NULL) == 0);
    disk->owner = mem_try_alloc((size_t)options->n_records, sizeof *disk->owner);
    disk->buffer = mem_try_alloc(KV_DISK_BUFFERS, (size_t)disk->record_bytes);
    Status status = OK;
    if (disk->owner == NULL || disk->buffer == NULL) {
        status = err_set(err, ERR_NOMEM, "no memory to write %d KV blocks", KV_DISK_BUFFERS);
    }
    if (status == OK) status = kv_disk_open_file(disk, err);
    if (status == OK) status = kv_disk_open_header(disk, err);
    if (status != OK) {
        kv_disk_close(disk);
        return status;
    }
    *out = disk;
    return OK;
}

void kv_disk_close(KvDisk *disk) {
    if (disk == NULL) return;
    if (disk->has_thread) {
        CHECK(pthread_mutex_lock(&disk->lock) == 0);
        disk->stop = true;
        CHECK(pthread_cond_signal(&disk->work) == 0);
        CHECK(pthread_mutex_unlock(&disk->lock) == 0);
        CHECK(pthread_join(disk->thread, NULL) == 0);
        (void)fdatasync(disk->fd);
    }
    if (disk->fd >= 0) close(disk->fd);
    pthread_cond_destroy(&disk->work);
    pthread_mutex_destroy(&disk->lock);
    mem_free(disk->owner);
    mem_free(disk->buffer);
    mem_free(disk->entry);
    mem_free(disk->entry_number);
    mem_free(disk->path);
    mem_free(disk);
}

uint64_t kv_disk_salt_seed(const KvDisk *disk) {
    return disk->header.salt_seed;
}

/* ---- reading ----------------------------------------------------------------------------- */

/* The whole record into the first buffer; NULL: it is not whole. */
static const KvDiskRecord *kv_disk_load(KvDisk *disk, int32_t number) {
    char *record = kv_disk_buffer(disk, 0);
    uint64_t checksum;
    if (!kv_disk_read_all(disk->fd, record, (size_t)disk->record_bytes,
                          kv_disk_offset(disk, number))) {
        return NULL;
    }
    memcpy(&checksum, record + disk->record_bytes - (int64_t)sizeof checksum, sizeof checksum);
    return checksum == kv_disk_checksum(disk, record) ? (const KvDiskRecord *)record : NULL;
}

typedef struct KvDiskFound {
    KvDiskEntry entry;
    int32_t number;
} KvDiskFound;

static int kv_disk_compare(const void *a, const void *b) {
    const KvDiskFound *x = a, *y = b;
    if (x->entry.depth != y->entry.depth) return x->entry.depth < y->entry.depth ? -1 : 1;
    return x->number - y->number;
}

Status kv_disk_scan(KvDisk *disk, KvDiskEntry **entries, int32_t **numbers, int32_t *n, Err *err) {
    const size_t n_records = (size_t)disk->options.n_records;
    KvDiskFound *found = mem_try_alloc(n_records, sizeof *found);
    disk->entry = mem_try_alloc(n_records, sizeof *disk->entry);
    disk->entry_number = mem_try_alloc(n_records, sizeof *disk->entry_number);
    if (found == NULL || disk->entry == NULL || disk->entry_number == NULL) {
        mem_free(found);
        FAIL(err, ERR_NOMEM, "no memory to read the %zu records of '%s'", n_records, disk->path);
    }
    struct stat st;
    const int64_t end = fstat(disk->fd, &st) == 0 ? st.st_size : 0;
    *n = 0;
    for (int32_t i = 0; i < disk->options.n_records && kv_disk_offset(disk, i) < end; i++) {
        const KvDiskRecord *record = kv_disk_load(disk, i);
        if (record == NULL || record->entry.prefix == 0) continue;
        found[(*n)++] = (KvDiskFound){record->entry, i};
        disk->owner[i] = record->entry.prefix;
        if (record->written < disk->n_written) continue;
        disk->n_written = record->written + 1;
        disk->next = (i + 1) % disk->options.n_records;
    }
    qsort(found, (size_t)*n, sizeof *found, kv_disk_compare);
    for (int32_t i = 0; i < *n; i++) {
        disk->entry[i] = found[i].entry;
        disk->entry_number[i] = found[i].number;
    }
    mem_free(found);
    *entries = disk->entry;
    *numbers = disk->entry_number;
    return OK;
}

bool kv_disk_read(KvDisk *disk, int32_t number, int32_t *token, void *payload) {
    const KvDiskRecord *record = kv_disk_load(disk, number);
    if (record == NULL) return false;
    const char *tokens = (const char *)(record + 1);
    const size_t n = (size_t)disk->options.block_tokens * sizeof *token;
    memcpy(token, tokens, n);
    memcpy(payload, tokens + n, (size_t)disk->options.payload_bytes);
    return true;
}

/* ---- writing ----------------------------------------------------------------------------- */

static void kv_disk_write(KvDisk *disk, int32_t buffer) {
    char *record = kv_disk_buffer(disk, buffer);
    const uint64_t checksum = kv_disk_checksum(disk, record);
    memcpy(record + disk->record_bytes - (int64_t)sizeof checksum, &checksum, sizeof checksum);
    if (kv_disk_write_all(disk->fd, record, (size_t)disk->record_bytes,
                          kv_disk_offset(disk, disk->number[buffer])) ||
        disk->has_failed) {
        return;
    }
    disk->has_failed = true; /* said once */
    log_line(LOG_WARN, "kv", "'%s' cannot be written: %s", disk->path, strerror(errno));
}

static void *kv_disk_main(void *arg) {
    KvDisk *disk = arg;
    CHECK(pthread_mutex_lock(&disk->lock) == 0);
    for (;;) {
        while (disk->n_queued == 0 && !disk->stop) {
            CHECK(pthread_cond_wait(&disk->work, &disk->lock) == 0);
        }
        if (disk->n_queued == 0) break;
        const int32_t buffer = disk->queue[0];
        memmove(disk->queue, disk->queue + 1, (size_t)--disk->n_queued * sizeof *disk->queue);
        CHECK(pthread_mutex_unlock(&disk->lock) == 0);
        kv_disk_write(disk, buffer);
        CHECK(pthread_mutex_lock(&disk->lock) == 0);
        disk->state[buffer] = KV_DISK_FREE;
    }
    CHECK(pthread_mutex_unlock(&disk->lock) == 0);
    return NULL;
}

Status kv_disk_start(KvDisk *disk, Err *err) {
    if (pthread_create(&disk->thread, NULL, kv_disk_main, disk) != 0) {
        FAIL(err, ERR_NOMEM, "no thread to write '%s'", disk->path);
    }
    disk->has_thread = true;
    return OK;
}

bool kv_disk_has(const KvDisk *disk, const KvNode *node) {
    return node->disk >= 0 && disk->owner[node->disk] == node->prefix;
}

int32_t kv_disk_take(KvDisk *disk) {
    int32_t buffer = KV_DISK_BUFFERS - 1;
    CHECK(pthread_mutex_lock(&disk->lock) == 0);
    while (buffer >= 0 && disk->state[buffer] != KV_DISK_FREE) buffer--;
    CHECK(pthread_mutex_unlock(&disk->lock) == 0);
    return buffer;
}

void *kv_disk_fill(KvDisk *disk, int32_t buffer, const KvDiskEntry *entry, const int32_t *token,
                   int32_t *number) {
    char *data = kv_disk_buffer(disk, buffer);
    const KvDiskRecord record = {.written = disk->n_written++, .entry = *entry};
    const size_t n = (size_t)disk->options.block_tokens * sizeof *token;
    *number = disk->next;
    disk->next = (disk->next + 1) % disk->options.n_records;
    disk->owner[*number] = entry->prefix;
    disk->number[buffer] = *number;
    memcpy(data, &record, sizeof record);
    memcpy(data + sizeof record, token, n);
    CHECK(pthread_mutex_lock(&disk->lock) == 0);
    disk->state[buffer] = KV_DISK_FILLED;
    CHECK(pthread_mutex_unlock(&disk->lock) == 0);
    return data + sizeof record + n;
}

void kv_disk_submit(KvDisk *disk, bool ok) {
    CHECK(pthread_mutex_lock(&disk->lock) == 0);
    for (int32_t i = KV_DISK_BUFFERS - 1; i >= 0; i--) { /* in the order in which they were taken */
        if (disk->state[i] != KV_DISK_FILLED) continue;
        disk->state[i] = ok ? KV_DISK_QUEUED : KV_DISK_FREE;
        if (ok) disk->queue[disk->n_queued++] = i;
        if (!ok) disk->owner[disk->number[i]] = 0;
    }
    CHECK(pthread_cond_signal(&disk->work) == 0);
    CHECK(pthread_mutex_unlock(&disk->lock) == 0);
}
