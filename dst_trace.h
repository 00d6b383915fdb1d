/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The tracepoints of DST: /sys/kernel/tracing/events/dst/. Rust calls them through kern/trace.rs.
 */
#undef TRACE_SYSTEM
#undef TRACE_INCLUDE_FILE
#undef TRACE_INCLUDE_PATH
#define TRACE_SYSTEM dst
#define TRACE_INCLUDE_FILE dst_trace
/* Kbuild adds the directory of this file to the include path. */
#define TRACE_INCLUDE_PATH .

#if !defined(DST_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define DST_TRACE_H

#include <linux/types.h>
#include <linux/kdev_t.h>
#include <linux/tracepoint.h>

/* The numbers are those of Op in kern/bio.rs. */
#define dst_show_op(op)				\
	__print_symbolic(op,			\
			 { 0, "read" },		\
			 { 1, "write" },	\
			 { 2, "flush" },	\
			 { 3, "discard" },	\
			 { 4, "write_zeroes" },	\
			 { 5, "other" })

/*
 * A piece is the part of a request that one node serves.
 *
 * dev:    the storage's disk
 * node:   number of the node in its storage (`id` in sysfs)
 * cookie: what tells pieces in flight apart; unique within the node
 * op:     what is done
 * sector: where in the storage, in units of 512 bytes
 * bytes:  how much data
 */
TRACE_EVENT(dst_piece_start,
	TP_PROTO(u32 dev, u32 node, u64 cookie, u8 op, u64 sector, u32 bytes),
	TP_ARGS(dev, node, cookie, op, sector, bytes),
	TP_STRUCT__entry(
		__field(u64, cookie)
		__field(u64, sector)
		__field(u32, dev)
		__field(u32, node)
		__field(u32, bytes)
		__field(u8, op)
	),
	TP_fast_assign(
		__entry->cookie = cookie;
		__entry->sector = sector;
		__entry->dev = dev;
		__entry->node = node;
		__entry->bytes = bytes;
		__entry->op = op;
	),
	TP_printk("dev=%u:%u node=%u cookie=0x%llx op=%s sector=%llu bytes=%u",
		  MAJOR(__entry->dev), MINOR(__entry->dev), __entry->node, __entry->cookie,
		  dst_show_op(__entry->op), __entry->sector, __entry->bytes)
);

/* error: 0, or the negative error number that the node answered; the other fields as above. */
TRACE_EVENT(dst_piece_end,
	TP_PROTO(u32 dev, u32 node, u64 cookie, u8 op, u64 sector, u32 bytes, int error),
	TP_ARGS(dev, node, cookie, op, sector, bytes, error),
	TP_STRUCT__entry(
		__field(u64, cookie)
		__field(u64, sector)
		__field(u32, dev)
		__field(u32, node)
		__field(u32, bytes)
		__field(int, error)
		__field(u8, op)
	),
	TP_fast_assign(
		__entry->cookie = cookie;
		__entry->sector = sector;
		__entry->dev = dev;
		__entry->node = node;
		__entry->bytes = bytes;
		__entry->error = error;
		__entry->op = op;
	),
	TP_printk("dev=%u:%u node=%u cookie=0x%llx op=%s sector=%llu bytes=%u error=%d",
		  MAJOR(__entry->dev), MINOR(__entry->dev), __entry->node, __entry->cookie,
		  dst_show_op(__entry->op), __entry->sector, __entry->bytes, __entry->error)
);

/*
 * A link between two machines changed its state.
 *
 * name:  the storage
 * node:  number of the node in it (`id` in sysfs)
 * from:  name of the old state
 * to:    name of the new state
 * error: why, as a negative error number; 0 if nothing is wrong
 */
TRACE_EVENT(dst_link,
	TP_PROTO(const char *name, u32 node, const char *from, const char *to, int error),
	TP_ARGS(name, node, from, to, error),
	TP_STRUCT__entry(
		__string(name, name)
		__string(from, from)
		__string(to, to)
		__field(u32, node)
		__field(int, error)
	),
	TP_fast_assign(
		__assign_str(name);
		__assign_str(from);
		__assign_str(to);
		__entry->node = node;
		__entry->error = error;
	),
	TP_printk("name=%s node=%u from=%s to=%s error=%d", __get_str(name), __entry->node,
		  __get_str(from), __get_str(to), __entry->error)
);

/*
 * An export received a request.
 *
 * name:    the export
 * cookie:  the client's name for the request; unique within its connection
 * command: NBD's number of the command (0 read, 1 write, 3 flush, 4 trim, 6 write zeroes)
 * flags:   NBD's command flags
 * offset:  where, in bytes
 * length:  how much, in bytes
 */
TRACE_EVENT(dst_export_request,
	TP_PROTO(const char *name, u64 cookie, u16 command, u16 flags, u64 offset, u32 length),
	TP_ARGS(name, cookie, command, flags, offset, length),
	TP_STRUCT__entry(
		__field(u64, cookie)
		__field(u64, offset)
		__field(u32, length)
		__string(name, name)
		__field(u16, command)
		__field(u16, flags)
	),
	TP_fast_assign(
		__entry->cookie = cookie;
		__entry->offset = offset;
		__entry->length = length;
		__assign_str(name);
		__entry->command = command;
		__entry->flags = flags;
	),
	TP_printk("name=%s cookie=0x%llx command=%u flags=0x%x offset=%llu length=%u",
		  __get_str(name), __entry->cookie, __entry->command, __entry->flags,
		  __entry->offset, __entry->length)
);

/* An export answers a request. error: 0, or NBD's error number; the other fields as above. */
TRACE_EVENT(dst_export_reply,
	TP_PROTO(const char *name, u64 cookie, int error),
	TP_ARGS(name, cookie, error),
	TP_STRUCT__entry(
		__field(u64, cookie)
		__string(name, name)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->cookie = cookie;
		__assign_str(name);
		__entry->error = error;
	),
	TP_printk("name=%s cookie=0x%llx error=%d", __get_str(name), __entry->cookie, __entry->error)
);

#endif /* DST_TRACE_H */

/* Outside of the guard: it reads this file again, several times. */
#include <trace/define_trace.h>
