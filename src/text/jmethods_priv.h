/* jmethods_priv: the table of string methods. */
#pragma once

#include "text/jinja_priv.h"

extern const JMethodDef jmethods_str[];
extern const size_t jmethods_n_str;
