/* available: how much memory this process could still take before the system ends it for that.
 *
 * The kernel gives addresses freely and takes the process away when their pages are touched, so who
 * is about to touch many of them asks first and can say what is missing. */
#pragma once

#include "base/base.h"

/* Bytes that the machine has left, swap included, or that a limit of this process's cgroups (v2,
 * v1) leaves, whichever is least; pages of files that the kernel can drop count as left. INT64_MAX
 * where nothing tells. root: "", or a folder with proc and sys in it. */
int64_t available_memory(const char *root);
