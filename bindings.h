/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What DST needs of C beside what kernel::bindings already has: input of bindgen (Kbuild names what it takes out).
 *
 * A constant that C hides behind a cast is declared here as DST_C_NAME and appears in Rust as NAME.
 */
#include <linux/blk_types.h>
#include <linux/blkdev.h>
#include <linux/gfp.h>
#include <linux/tcp.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "helpers.h"
#include "dst_trace.h"

/* Block layer: kern/{bio,lower,span,bdev,disk}.rs. */
#include <linux/bio.h>

const blk_opf_t DST_C_REQ_OP_MASK = REQ_OP_MASK;
const blk_opf_t DST_C_REQ_SYNC = REQ_SYNC;
const blk_opf_t DST_C_REQ_IDLE = REQ_IDLE;
const blk_opf_t DST_C_REQ_INTEGRITY = REQ_INTEGRITY;
const blk_opf_t DST_C_REQ_FUA = REQ_FUA;
const blk_opf_t DST_C_REQ_PREFLUSH = REQ_PREFLUSH;
const blk_opf_t DST_C_REQ_RAHEAD = REQ_RAHEAD;
const blk_opf_t DST_C_REQ_NOWAIT = REQ_NOWAIT;
const blk_opf_t DST_C_REQ_POLLED = REQ_POLLED;
const blk_opf_t DST_C_REQ_ALLOC_CACHE = REQ_ALLOC_CACHE;
const blk_opf_t DST_C_REQ_ATOMIC = REQ_ATOMIC;
const blk_opf_t DST_C_REQ_NOUNMAP = REQ_NOUNMAP;

const blk_status_t DST_C_BLK_STS_NOTSUPP = BLK_STS_NOTSUPP;
const blk_status_t DST_C_BLK_STS_TIMEOUT = BLK_STS_TIMEOUT;
const blk_status_t DST_C_BLK_STS_NOSPC = BLK_STS_NOSPC;
const blk_status_t DST_C_BLK_STS_TRANSPORT = BLK_STS_TRANSPORT;
const blk_status_t DST_C_BLK_STS_MEDIUM = BLK_STS_MEDIUM;
const blk_status_t DST_C_BLK_STS_PROTECTION = BLK_STS_PROTECTION;
const blk_status_t DST_C_BLK_STS_RESOURCE = BLK_STS_RESOURCE;
const blk_status_t DST_C_BLK_STS_IOERR = BLK_STS_IOERR;
const blk_status_t DST_C_BLK_STS_AGAIN = BLK_STS_AGAIN;
const blk_status_t DST_C_BLK_STS_OFFLINE = BLK_STS_OFFLINE;
const blk_status_t DST_C_BLK_STS_INVAL = BLK_STS_INVAL;
const blk_status_t DST_C_BLK_STS_TARGET = BLK_STS_TARGET;

const blk_features_t DST_C_BLK_FEAT_WRITE_CACHE = BLK_FEAT_WRITE_CACHE;
const blk_features_t DST_C_BLK_FEAT_FUA = BLK_FEAT_FUA;
const blk_features_t DST_C_BLK_FEAT_ROTATIONAL = BLK_FEAT_ROTATIONAL;
const blk_features_t DST_C_BLK_FEAT_IO_STAT = BLK_FEAT_IO_STAT;
const blk_features_t DST_C_BLK_FEAT_STABLE_WRITES = BLK_FEAT_STABLE_WRITES;
const blk_features_t DST_C_BLK_FEAT_NOWAIT = BLK_FEAT_NOWAIT;

const blk_mode_t DST_C_BLK_OPEN_READ = BLK_OPEN_READ;
const blk_mode_t DST_C_BLK_OPEN_WRITE = BLK_OPEN_WRITE;

const gfp_t DST_C_GFP_NOIO = GFP_NOIO;
const gfp_t DST_C___GFP_NOWARN = __GFP_NOWARN;
const gfp_t DST_C___GFP_NORETRY = __GFP_NORETRY;
/* End of block layer. */
