/* msgpack: appends values in MessagePack to a buffer.
 *
 * source: the MessagePack specification (github.com/msgpack/msgpack, spec.md); each value takes its
 * shortest form. */
#pragma once

#include "base/buf.h"

void msgpack_nil(Buf *out);
void msgpack_uint(Buf *out, uint64_t value);
void msgpack_f64(Buf *out, double value);
void msgpack_text(Buf *out, const char *text);
/* n values follow; n pairs of key and value follow. */
void msgpack_array(Buf *out, uint32_t n);
void msgpack_map(Buf *out, uint32_t n);
