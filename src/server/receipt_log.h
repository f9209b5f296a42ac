/* receipt_log: writes receipts into a folder, behind the replies' back.
 *
 * One thread writes; what waits for it is bounded in bytes, and so are the files in the folder: the
 * oldest leave. A receipt that cannot be written costs a line in the log, never a reply. Each file
 * appears under its name only when it is whole. */
#pragma once

#include "server/receipt.h"

enum { RECEIPT_LOG_WAITING_BYTES_MAX = 64 << 20 };

typedef struct ReceiptLog ReceiptLog;

/* dir is made when it is absent. files_max: receipts that it holds at most. */
MUST_USE Status receipt_log_open(ReceiptLog **out, const char *dir, int64_t files_max, Err *err);
/* Any thread: queues the receipt; false when too much waits and it is lost. */
bool receipt_log_add(ReceiptLog *log, const Receipt *receipt);
/* Writes what waits and frees. */
void receipt_log_close(ReceiptLog *log);
