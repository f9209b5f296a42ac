/* stacks: where every thread of this process is, for the report of one that hangs. */
#pragma once

/* Prints name and stack of each thread on stderr; a thread that does not answer within a moment is
 * named without one. For a process that is about to end: it takes a real-time signal over. */
void stacks_print(void);
