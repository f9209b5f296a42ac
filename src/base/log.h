/* log: one line per event on stderr: time level module key=value. */
#pragma once

#include "base/base.h"

typedef enum LogLevel { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG } LogLevel;

void log_set_level(LogLevel level);
/* Control characters in the text are escaped. Any thread. */
void log_line(LogLevel level, const char *module, const char *format, ...) PRINTF_LIKE(3, 4);
