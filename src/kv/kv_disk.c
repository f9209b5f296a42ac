#include "kv/kv_disk.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "kv/kv_disk_dir.h"

enum { KV_DISK_HEADER_BYTES = 4096 };
static const char KV_DISK_MAGIC[8] = {'S', 'L', 'K', 'V', 'D', 'S', 'K', '2'};

typedef struct KvDiskHeader {
    char magic[8];
    uint64_t identity[2], salt_seed;
    int64_t payload_bytes;
    int64_t block_tokens;
    uint64_t checksum; /* of all before */
} KvDiskHeader;

/* A record: this, the tokens, the payload, zeros up to a multiple of 8, and a checksum of it all.
 * With prefix 0 it is not in use. */
typedef struct KvDiskRecord {
    uint64_t written; /* counts up: the newest record has the largest */
    KvDiskEntry entry;
} KvDiskRecord;

/* Of a buffer: the engine's thread takes it through the first three, the writing one on. */
typedef enum KvDiskState {
    KV_DISK_FREE,
    KV_DISK_FILLED,
    KV_DISK_QUEUED,
    KV_DISK_WRITTEN,
    KV_DISK_FAILED
} KvDiskState;

struct KvDisk {
    KvDiskOptions options;
    KvDiskHeader header;
    KvDiskFile file;
    int64_t record_bytes;
    char *buffer; /* [KV_DISK_BUFFERS][record_bytes] */
    KvDiskState state[KV_DISK_BUFFERS];
    int32_t number[KV_DISK_BUFFERS];
    int32_t queue[KV_DISK_BUFFERS], n_queued;
    int32_t writing; /* record that the thread writes now; -1: none */
    uint64_t *owner; /* [n_records] prefix hash that a record holds; 0: none */
    int32_t next;    /* record to overwrite next */
    uint64_t n_written;
    KvDiskCounts counts;
    bool stop, has_thread, has_failed;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    pthread_t thread;
};

static int64_t kv_disk_record_bytes(const KvDiskOptions *o) {
    const int64_t bytes = (int64_t)sizeof(KvDiskRecord) +
                          o->block_tokens * (int64_t)sizeof(int32_t) + o->payload_bytes +
                          (int64_t)sizeof(uint64_t);
    return DIV_UP(bytes, 8) * 8;
}

int64_t kv_disk_bytes(const KvDiskOptions *o) {
    return (int64_t)sizeof(KvDisk) + KV_DISK_BUFFERS * kv_disk_record_bytes(o) +
           o->n_records * (int64_t)(sizeof(uint64_t) + sizeof(KvDiskFound));
}

int64_t kv_disk_file_bytes(const KvDiskOptions *o, int64_t n_records) {
    return KV_DISK_HEADER_BYTES + n_records * kv_disk_record_bytes(o);
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
    if (have->block_tokens != want->block_tokens || have->payload_bytes != want->payload_bytes) {
        return "has records of another size";
    }
    return NULL;
}

static void kv_disk_fill_header(KvDisk *disk) {
    const KvDiskOptions *o = &disk->options;
    KvDiskHeader *header = &disk->header; /* all zeros */
    memcpy(header->magic, KV_DISK_MAGIC, sizeof header->magic);
    memcpy(header->identity, o->identity, sizeof header->identity);
    header->salt_seed = o->salt_seed;
    header->payload_bytes = o->payload_bytes;
    header->block_tokens = o->block_tokens;
    header->checksum = kv_disk_header_checksum(header);
}

/* Names the configuration, whatever the seed and the number of records. */
static uint64_t kv_disk_hash(const KvDiskOptions *o) {
    const uint64_t shape[2] = {(uint64_t)o->block_tokens, (uint64_t)o->payload_bytes};
    return hash_bytes(shape, sizeof shape, hash_bytes(o->identity, sizeof o->identity, 0));
}

/* Takes the file's header over, or empties the file and writes a new one. */
static Status kv_disk_open_header(KvDisk *disk, Err *err) {
    KvDiskHeader *want = &disk->header, have;
    const int fd = disk->file.fd;
    const int64_t bytes_max = kv_disk_file_bytes(&disk->options, disk->options.n_records);
    struct stat st;
    if (fstat(fd, &st) != 0) FAIL(err, ERR_IO, "'%s': %s", disk->file.path, strerror(errno));
    if (st.st_size > 0) {
        const bool whole = kv_disk_read_all(fd, &have, sizeof have, 0);
        const char *refusal = whole ? kv_disk_refusal(&have, want) : "is cut short";
        if (refusal == NULL) {
            *want = have;
            /* It was made when there was room for more. */
            if (st.st_size <= bytes_max || ftruncate(fd, bytes_max) == 0) return OK;
            FAIL(err, ERR_IO, "'%s' cannot be cut: %s", disk->file.path, strerror(errno));
        }
        disk->counts.n_damaged++;
        log_line(LOG_WARN, "kv", "'%s' %s: the cache begins cold", disk->file.path, refusal);
    }
    if (ftruncate(fd, 0) != 0 || !kv_disk_write_all(fd, want, sizeof *want, 0)) {
        FAIL(err, ERR_IO, "'%s' cannot be written: %s", disk->file.path, strerror(errno));
    }
    return OK;
}

static Status kv_disk_open_file(KvDisk *disk, Err *err) {
    const KvDiskOptions *o = &disk->options;
    const uint64_t hash = kv_disk_hash(o);
    TRY(kv_disk_dir_open(&disk->file, o->dir, hash, err));
    kv_disk_dir_trim(o->dir, hash, kv_disk_file_bytes(o, o->n_records), o->dir_bytes_max);
    kv_disk_fill_header(disk);
    return kv_disk_open_header(disk, err);
}

Status kv_disk_open(KvDisk **out, const KvDiskOptions *options, Err *err) {
    KvDisk *disk = mem_alloc(sizeof *disk);
    disk->options = *options;
    disk->file.fd = -1;
    disk->writing = -1;
    disk->record_bytes = kv_disk_record_bytes(options);
    CHECK(pthread_mutex_init(&disk->lock, NULL) == 0);
    CHECK(pthread_cond_init(&disk->work, NULL) == 0);
    CHECK(pthread_cond_init(&disk->done, NULL) == 0);
    disk->owner = mem_try_alloc((size_t)options->n_records, sizeof *disk->owner);
    disk->buffer = mem_try_alloc(KV_DISK_BUFFERS, (size_t)disk->record_bytes);
    Status status = OK;
    if (disk->owner == NULL || disk->buffer == NULL) {
        status = err_set(err, ERR_NOMEM, "no memory to write %d KV blocks", KV_DISK_BUFFERS);
    }
    if (status == OK) status = kv_disk_open_file(disk, err);
    if (status != OK) {
        kv_disk_close(disk);
        return status;
    }
    *out = disk;
    return OK;
}

static void kv_disk_lock(KvDisk *disk) {
    CHECK(pthread_mutex_lock(&disk->lock) == 0);
}

static void kv_disk_unlock(KvDisk *disk) {
    CHECK(pthread_mutex_unlock(&disk->lock) == 0);
}

void kv_disk_close(KvDisk *disk) {
    if (disk == NULL) return;
    if (disk->has_thread) {
        kv_disk_lock(disk);
        disk->stop = true;
        CHECK(pthread_cond_signal(&disk->work) == 0);
        kv_disk_unlock(disk);
        CHECK(pthread_join(disk->thread, NULL) == 0);
        (void)fdatasync(disk->file.fd);
    }
    if (disk->file.fd >= 0) close(disk->file.fd);
    pthread_cond_destroy(&disk->work);
    pthread_cond_destroy(&disk->done);
    pthread_mutex_destroy(&disk->lock);
    mem_free(disk->owner);
    mem_free(disk->buffer);
    mem_free(disk->file.path);
    mem_free(disk);
}

uint64_t kv_disk_salt_seed(const KvDisk *disk) {
    return disk->header.salt_seed;
}

/* ---- reading ----------------------------------------------------------------------------- */

/* The whole record into the buffer; NULL: it is not in use, or, which is counted, not whole. */
static const KvDiskRecord *kv_disk_load(KvDisk *disk, int32_t number, int32_t buffer) {
    char *record = kv_disk_buffer(disk, buffer);
    uint64_t checksum;
    if (kv_disk_read_all(disk->file.fd, record, (size_t)disk->record_bytes,
                         kv_disk_offset(disk, number))) {
        const KvDiskRecord *found = (const KvDiskRecord *)record;
        if (found->entry.prefix == 0) return NULL;
        memcpy(&checksum, record + disk->record_bytes - (int64_t)sizeof checksum, sizeof checksum);
        if (checksum == kv_disk_checksum(disk, record)) return found;
    }
    disk->counts.n_damaged++;
    return NULL;
}

static int kv_disk_compare(const void *a, const void *b) {
    const KvDiskFound *x = a, *y = b;
    if (x->entry.depth != y->entry.depth) return x->entry.depth < y->entry.depth ? -1 : 1;
    return x->number - y->number;
}

Status kv_disk_scan(KvDisk *disk, KvDiskFound **out, int32_t *n, Err *err) {
    struct stat st;
    const int64_t end = fstat(disk->file.fd, &st) == 0 ? st.st_size : 0;
    const int64_t bytes = MAX(end - KV_DISK_HEADER_BYTES, 0);
    const int32_t n_records =
        (int32_t)MIN(DIV_UP(bytes, disk->record_bytes), (int64_t)disk->options.n_records);
    KvDiskFound *found = mem_try_alloc((size_t)n_records, sizeof *found);
    if (found == NULL) {
        FAIL(err, ERR_NOMEM, "no memory to read the %d records of '%s'", n_records,
             disk->file.path);
    }
    *n = 0;
    for (int32_t i = 0; i < n_records; i++) {
        const KvDiskRecord *record = kv_disk_load(disk, i, 0);
        if (record == NULL) continue;
        found[(*n)++] = (KvDiskFound){record->entry, i};
        disk->owner[i] = record->entry.prefix;
        if (record->written < disk->n_written) continue;
        disk->n_written = record->written + 1;
        disk->next = (i + 1) % disk->options.n_records;
    }
    qsort(found, (size_t)*n, sizeof *found, kv_disk_compare);
    *out = found;
    return OK;
}

const int32_t *kv_disk_read(KvDisk *disk, int32_t number, int32_t buffer, void **payload) {
    if (kv_disk_load(disk, number, buffer) == NULL) return NULL;
    char *tokens = kv_disk_buffer(disk, buffer) + sizeof(KvDiskRecord);
    *payload = tokens + (size_t)disk->options.block_tokens * sizeof(int32_t);
    return (const int32_t *)tokens;
}

/* ---- writing ----------------------------------------------------------------------------- */

static bool kv_disk_write(KvDisk *disk, int32_t buffer) {
    char *record = kv_disk_buffer(disk, buffer);
    const uint64_t checksum = kv_disk_checksum(disk, record);
    memcpy(record + disk->record_bytes - (int64_t)sizeof checksum, &checksum, sizeof checksum);
    const bool written = kv_disk_write_all(disk->file.fd, record, (size_t)disk->record_bytes,
                                           kv_disk_offset(disk, disk->number[buffer]));
    if (!written && !disk->has_failed) { /* said once, until it works again */
        log_line(LOG_WARN, "kv", "'%s' cannot be written: %s", disk->file.path, strerror(errno));
    }
    disk->has_failed = !written;
    return written;
}

/* Writes the first buffer of the queue, under the lock but for the writing. */
static void kv_disk_write_first(KvDisk *disk) {
    const int32_t buffer = disk->queue[0];
    memmove(disk->queue, disk->queue + 1, (size_t)--disk->n_queued * sizeof *disk->queue);
    disk->writing = disk->number[buffer];
    kv_disk_unlock(disk);
    const bool written = kv_disk_write(disk, buffer);
    kv_disk_lock(disk);
    disk->state[buffer] = written ? KV_DISK_WRITTEN : KV_DISK_FAILED;
    disk->writing = -1;
    CHECK(pthread_cond_broadcast(&disk->done) == 0);
}

static void *kv_disk_main(void *arg) {
    KvDisk *disk = arg;
    kv_disk_lock(disk);
    while (disk->n_queued > 0 || !disk->stop) {
        if (disk->n_queued > 0) {
            kv_disk_write_first(disk);
        } else {
            CHECK(pthread_cond_wait(&disk->work, &disk->lock) == 0);
        }
    }
    kv_disk_unlock(disk);
    return NULL;
}

Status kv_disk_start(KvDisk *disk, Err *err) {
    if (pthread_create(&disk->thread, NULL, kv_disk_main, disk) != 0) {
        FAIL(err, ERR_NOMEM, "no thread to write '%s'", disk->file.path);
    }
    disk->has_thread = true;
    return OK;
}

void kv_disk_settle(KvDisk *disk) {
    kv_disk_lock(disk);
    for (int32_t i = 0; i < KV_DISK_BUFFERS; i++) {
        const bool failed = disk->state[i] == KV_DISK_FAILED;
        if (!failed && disk->state[i] != KV_DISK_WRITTEN) continue;
        const KvDiskRecord *record = (const KvDiskRecord *)kv_disk_buffer(disk, i);
        uint64_t *owner = &disk->owner[disk->number[i]];
        if (failed && *owner == record->entry.prefix) *owner = 0;
        disk->counts.n_failed += failed;
        disk->counts.n_written += !failed;
        disk->state[i] = KV_DISK_FREE;
    }
    kv_disk_unlock(disk);
}

const KvDiskCounts *kv_disk_counts(const KvDisk *disk) {
    return &disk->counts;
}

bool kv_disk_has(const KvDisk *disk, const KvNode *node) {
    return node->disk >= 0 && disk->owner[node->disk] == node->prefix;
}

int32_t kv_disk_take(KvDisk *disk) {
    int32_t buffer = KV_DISK_BUFFERS - 1;
    kv_disk_lock(disk);
    while (buffer >= 0 && disk->state[buffer] != KV_DISK_FREE) buffer--;
    kv_disk_unlock(disk);
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
    kv_disk_lock(disk);
    disk->state[buffer] = KV_DISK_FILLED;
    kv_disk_unlock(disk);
    return data + sizeof record + n;
}

void kv_disk_submit(KvDisk *disk, bool ok) {
    kv_disk_lock(disk);
    for (int32_t i = KV_DISK_BUFFERS - 1; i >= 0; i--) { /* in the order in which they were taken */
        if (disk->state[i] != KV_DISK_FILLED) continue;
        disk->state[i] = ok ? KV_DISK_QUEUED : KV_DISK_FREE;
        if (ok) disk->queue[disk->n_queued++] = i;
        if (!ok) disk->owner[disk->number[i]] = 0;
    }
    while (disk->n_queued > 0 && !disk->has_thread) kv_disk_write_first(disk);
    CHECK(pthread_cond_signal(&disk->work) == 0);
    kv_disk_unlock(disk);
}

/* ---- removing ---------------------------------------------------------------------------- */

/* Under the lock: nothing that is queued for the record (-1: for any) will be written, and nothing
 * is being written to it. */
static void kv_disk_hold(KvDisk *disk, int32_t number) {
    int32_t n_kept = 0;
    for (int32_t i = 0; i < disk->n_queued; i++) {
        const int32_t buffer = disk->queue[i];
        if (number < 0 || disk->number[buffer] == number) {
            disk->state[buffer] = KV_DISK_FREE;
        } else {
            disk->queue[n_kept++] = buffer;
        }
    }
    disk->n_queued = n_kept;
    while (disk->writing >= 0 && (number < 0 || disk->writing == number)) {
        CHECK(pthread_cond_wait(&disk->done, &disk->lock) == 0);
    }
}

void kv_disk_erase(KvDisk *disk, uint64_t prefix) {
    const KvDiskRecord none = {0};
    for (int32_t i = 0; i < disk->options.n_records; i++) {
        if (disk->owner[i] != prefix) continue;
        disk->owner[i] = 0;
        kv_disk_lock(disk);
        kv_disk_hold(disk, i);
        const bool erased =
            kv_disk_write_all(disk->file.fd, &none, sizeof none, kv_disk_offset(disk, i));
        kv_disk_unlock(disk);
        if (erased) continue;
        disk->counts.n_failed++;
        log_line(LOG_ERROR, "kv", "'%s': record %d cannot be erased: %s", disk->file.path, i,
                 strerror(errno));
    }
}

Status kv_disk_clear(KvDisk *disk, Err *err) {
    kv_disk_lock(disk);
    kv_disk_hold(disk, -1);
    const bool cleared = ftruncate(disk->file.fd, KV_DISK_HEADER_BYTES) == 0;
    const int error = errno;
    kv_disk_unlock(disk);
    if (!cleared) {
        FAIL(err, ERR_IO, "'%s' cannot be emptied: %s", disk->file.path, strerror(error));
    }
    memset(disk->owner, 0, (size_t)disk->options.n_records * sizeof *disk->owner);
    disk->next = 0;
    return OK;
}
