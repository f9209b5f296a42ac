/* main: picks the subcommand. */
#include <stdio.h>

#include "sluice.h"

int main(void) {
    printf("sluice %s\n", sluice_version());
    return 0;
}
