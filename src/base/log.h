/* log: one line per event on stderr: time level module key=value. */
#pragma once

#include "base/base.h"

typedef enum LogLevel { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG } LogLevel;

/* Lines above this level are dropped; at the start LOG_WARN. Any thread. */
void log_set_level(LogLevel level);
/* Writes the line in one piece. Control characters in the text are escaped; text beyond 2,000 bytes
 * is cut and marked with "...". Any thread. */
void log_line(LogLevel level, const char *module, const char *format, ...) PRINTF_LIKE(3, 4);
