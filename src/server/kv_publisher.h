/* kv_publisher: tells others over ZeroMQ what enters and leaves the prefix cache, as vLLM does, so
 * that routers send a request to where its prefix is.
 *
 * A message has three frames: the topic, its number (8 bytes, big-endian, from 0 without a gap),
 * and in MessagePack [time, [event, ...], 0], each event a map with "type". Who missed some asks at
 * the replay socket with the number to start from, and gets what is still kept, then the number -1.
 * Token ids are what clients wrote: whoever can read here can read their prompts.
 *
 * source: vLLM's kv_events.py (event maps since June 2026), and llm-d's reader of it. */
#pragma once

#include "base/status.h"
#include "sluice.h"

typedef struct KvPublisher KvPublisher;

typedef struct KvPublisherOptions {
    const char *endpoint; /* tcp://HOST:PORT, ipc://PATH: bound when it has a * or is a path, else
                             connected to */
    const char *replay;   /* bound; NULL: no replay */
    const char *topic;
} KvPublisherOptions;

enum {
    KV_PUBLISHER_BATCHES = 10000,  /* kept for replay at most, */
    KV_PUBLISHER_BYTES = 64 << 20, /* and bytes of them */
    KV_PUBLISHER_EVENTS = 64,      /* in a message at most */
    KV_PUBLISHER_RING = 16384,     /* events for the engine to keep (max_kv_events) */
    KV_PUBLISHER_WATERMARK =
        100 * 1000 /* messages that wait for a slow reader, then it loses some */
};

/* Starts a thread that publishes until closed. The engine is borrowed; it must keep events. */
MUST_USE Status kv_publisher_open(KvPublisher **out, sluice_engine *engine,
                                  const KvPublisherOptions *options, Err *err);
void kv_publisher_close(KvPublisher *publisher);
