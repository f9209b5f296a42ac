#include "base/metrics.h"

void metrics_head(Buf *out, const char *name, const char *type, const char *help) {
    buf_append_format(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void metrics_value(Buf *out, const char *name, const char *labels, double value) {
    buf_append_format(out, "%s{%s} %.15g\n", name, labels, value);
}

void metrics_histogram(Buf *out, const char *name, const char *labels, const Histogram *histogram) {
    uint64_t total = 0;
    const char *comma = labels[0] != '\0' ? "," : "";
    for (int32_t i = 0; i <= histogram->n_bounds; i++) {
        total += histogram_count(histogram, i);
        if (i < histogram->n_bounds) {
            buf_append_format(out, "%s_bucket{%s%sle=\"%g\"} %llu\n", name, labels, comma,
                              histogram->bound[i], (unsigned long long)total);
        } else {
            buf_append_format(out, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma,
                              (unsigned long long)total);
        }
    }
    double sum = histogram_sum(histogram);
    buf_append_format(out, "%s_sum{%s} %.15g\n%s_count{%s} %llu\n", name, labels, sum, name, labels,
                      (unsigned long long)total);
}

void metrics_label(Buf *out, const char *key, Str value) {
    buf_append_format(out, "%s%s=\"", out->len > 0 ? "," : "", key);
    for (size_t i = 0; i < value.len; i++) {
        char c = value.ptr[i];
        if (c == '\n') {
            buf_append_text(out, "\\n");
        } else {
            if (c == '"' || c == '\\') buf_append_byte(out, '\\');
            buf_append_byte(out, c);
        }
    }
    buf_append_byte(out, '"');
}
