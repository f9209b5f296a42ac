#include "server/web.h"

/* The assembler reads the files (paths are relative to the repository's root, where make runs). */
#define WEB_EMBED(symbol, file)                                              \
    __asm__(".section .rodata\n" #symbol ":\n.incbin \"" file "\"\n" #symbol \
            "_end:\n.byte 0\n.previous\n");                                  \
    extern const char symbol[] __attribute__((visibility("hidden")));        \
    extern const char symbol##_end[] __attribute__((visibility("hidden")))

WEB_EMBED(web_index, "web/index.html");
WEB_EMBED(web_dashboard, "web/dashboard.html");
WEB_EMBED(web_chat_js, "web/chat.js");
WEB_EMBED(web_common_js, "web/common.js");
WEB_EMBED(web_dashboard_js, "web/dashboard.js");
WEB_EMBED(web_markdown_js, "web/markdown.js");
WEB_EMBED(web_style, "web/style.css");

typedef struct WebFile {
    const char *path, *type, *start, *end;
} WebFile;

bool web_find(const char *path, Str *content, const char **content_type) {
    static const char html[] = "text/html; charset=utf-8";
    static const char script[] = "text/javascript; charset=utf-8";
    const WebFile files[] = {
        {"/", html, web_index, web_index_end},
        {"/dashboard", html, web_dashboard, web_dashboard_end},
        {"/chat.js", script, web_chat_js, web_chat_js_end},
        {"/common.js", script, web_common_js, web_common_js_end},
        {"/dashboard.js", script, web_dashboard_js, web_dashboard_js_end},
        {"/markdown.js", script, web_markdown_js, web_markdown_js_end},
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
