#include "server/web.h"

/* The assembler reads the files (paths are relative to the repository's root, where make runs). */
#define WEB_EMBED(symbol, file)                                              \
    __asm__(".section .rodata\n" #symbol ":\n.incbin \"" file "\"\n" #symbol \
            "_end:\n.byte 0\n.previous\n");                                  \
    extern const char symbol[] __attribute__((visibility("hidden")));        \
    extern const char symbol##_end[] __attribute__((visibility("hidden")))

WEB_EMBED(web_index, "web/index.html");
WEB_EMBED(web_app, "web/app.js");
WEB_EMBED(web_style, "web/style.css");

typedef struct WebFile {
    const char *path, *type, *start, *end;
} WebFile;

bool web_find(const char *path, Str *content, const char **content_type) {
    const WebFile files[] = {
        {"/", "text/html; charset=utf-8", web_index, web_index_end},
        {"/app.js", "text/javascript; charset=utf-8", web_app, web_app_end},
        {"/style.css", "text/css; charset=utf-8", web_style, web_style_end},
    };
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        if (strcmp(path, files[i].path) != 0) continue;
        *content = (Str){files[i].start, (size_t)(files[i].end - files[i].start)};
        *content_type = files[i].type;
        return true;
    }
    return false;
}
