/* line_edit: reading lines from a person, with editing and history, or from a pipe. */
#pragma once

#include "base/buf.h"

typedef struct LineEdit LineEdit;

/* history_path: where lines are kept between runs, or NULL. */
LineEdit *line_edit_open(const char *history_path);
void line_edit_close(LineEdit *edit);

/* Reads one line without its newline into out (which is emptied first), showing the prompt on a
 * terminal. Ctrl-C empties the line. False at the end of input (Ctrl-D on an empty line). */
bool line_edit_read(LineEdit *edit, const char *prompt, Buf *out);
/* Adds an entry that the arrow keys bring back. */
void line_edit_remember(LineEdit *edit, const char *line);
