/* cpu_unroll: CPU_UNROLL(n) before a loop has it unrolled n times in optimized builds.
 *
 * Not in those for debugging: with a sanitizer's checks in every copy of the body, one kernel file
 * took minutes and 2 GB to compile. */
#pragma once

#ifdef SLUICE_DEBUG
#define CPU_UNROLL(n)
#else
#define CPU_PRAGMA(text) _Pragma(#text)
#define CPU_UNROLL(n)    CPU_PRAGMA(GCC unroll n)
#endif
