/* metrics: the text that Prometheus reads.
 *
 * source: the Prometheus text exposition format 0.0.4. */
#pragma once

#include "base/buf.h"
#include "base/histogram.h"

/* Appends "# HELP" and "# TYPE" lines. */
void metrics_head(Buf *out, const char *name, const char *type, const char *help);
/* Appends name{labels} value. labels: rendered, or "". */
void metrics_value(Buf *out, const char *name, const char *labels, double value);
/* Appends the _bucket, _sum and _count lines. */
void metrics_histogram(Buf *out, const char *name, const char *labels, const Histogram *histogram);
/* Appends key="value" with the value escaped as the format wants; a comma first if out is not
 * empty. */
void metrics_label(Buf *out, const char *key, Str value);
