/* clock: monotonic time. */
#pragma once

#include "base/base.h"

/* Microseconds since an arbitrary start; never goes back. */
int64_t clock_us(void);
