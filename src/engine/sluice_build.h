/* sluice_build: which program computes here: what numbers depend on beside the model. */
#pragma once

#include "ops/device.h"

/* A hash of the machine code and the build id of this program (or library) and of the device's
 * backend, of the C library's version, of the level and of whether sums may be fast. Two builds
 * that differ in anything differ here. */
uint64_t sluice_build_hash(const Device *device, const char *level, bool fast);
