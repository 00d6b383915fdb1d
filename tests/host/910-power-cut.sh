#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
# A mirror of two machines that lose their power at random moments, three times: nothing is lost, and both end equal.
# Long: debug
# Timeout: 1500
set -euo pipefail
exec python3 "$TESTS/power.py" --rounds 3
