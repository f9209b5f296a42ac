/* convert: a Hugging Face directory -> a GGUF file. */
#include <stdio.h>

#include "app/cmd.h"
#include "base/clock.h"
#include "compress/convert.h"

Status cmd_convert(const Config *config, Err *err) {
    ConvertOptions options = {.quiet = config->quiet};
    if (!dtype_from_name(str_from(config->type), &options.type) || !dtype_can_write(options.type))
        FAIL(err, ERR_ARG, "--type is '%s', wanted f32, f16, bf16, q8_0 or q4_0", config->type);
    ConvertReport report;
    int64_t start = clock_us();
    TRY(convert_to_gguf(config->arg[0], config->arg[1], &options, &report, err));
    printf("%s: %lld tensors, %.1f MB, %.2f bits per weight, %.1f s\n", config->arg[1],
           (long long)report.n_tensors, (double)report.bytes / 1e6,
           8.0 * (double)report.bytes / (double)report.n_weights,
           (double)(clock_us() - start) / 1e6);
    if (report.n_unused > 0)
        fprintf(stderr, "%lld tensors of the source have no place in GGUF and were left out\n",
                (long long)report.n_unused);
    return OK;
}
