// SPDX-License-Identifier: GPL-2.0
/* What dst_trace.h declares, and the functions by which Rust calls it. */
#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "dst_trace.h"
