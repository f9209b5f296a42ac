#include "sluice.h"

const char *sluice_version(void) {
    return "0.1.0";
}
