/* SPDX-License-Identifier: GPL-2.0 */
/* Plain functions around inline functions and macros of the kernel, for Rust to call. All are named dst_*. */
#ifndef DST_HELPERS_H
#define DST_HELPERS_H

#include <linux/blk_types.h>
#include <linux/blkdev.h>
#include <linux/types.h>

unsigned int dst_memalloc_noio_save(void);
void dst_memalloc_noio_restore(unsigned int flags);

/* --- net: kern/net.rs, kern/poll.rs, kern/thread.rs, kern/time.rs --- */

struct cred;
struct net;
struct sock;
struct socket;

enum dst_socket_role {
	DST_SOCKET_CONNECTION,
	DST_SOCKET_LISTENER,
	DST_SOCKET_ACCEPTED,
};

unsigned int dst_memalloc_noreclaim_save(void);
void dst_memalloc_noreclaim_restore(unsigned int flags);
const struct cred *dst_kernel_creds_enter(void);
void dst_kernel_creds_leave(const struct cred *old);
struct net *dst_current_net_get(void);
struct net *dst_net_get(struct net *net);
void dst_net_put(struct net *net);
void dst_socket_prepare(struct socket *sock, enum dst_socket_role role);
void dst_socket_linger(struct sock *sk);
void dst_sock_lock(struct sock *sk);
void dst_sock_lock_to_send(struct sock *sk);
void dst_sock_hold(struct sock *sk);
void dst_sock_put(struct sock *sk);
int dst_sock_error_take(struct sock *sk);
int dst_sock_state(const struct sock *sk);
bool dst_sock_at_end(const struct sock *sk);
bool dst_sock_is_stuck(const struct sock *sk);
bool dst_sock_tx_pending(const struct sock *sk);
bool dst_sock_leaves(struct sock *sk);
void dst_task_state_idle(void);
void dst_task_state_running(void);
void dst_cond_resched(void);

/* --- sysfs: kern/sysfs.rs --- */

struct device;

void dst_device_set_pm_not_required(struct device *dev);

/* --- module: kern/module.rs --- */

struct module *dst_this_module(void);

/* --- block layer: kern/{pool,bio,lower,span,bdev,disk,plug}.rs --- */

void dst_bio_fail(struct bio *bio, blk_status_t status);
void dst_bio_share(struct bio *bio);
bool dst_bvec_sendpage_ok(const struct bio_vec *bvec, unsigned int offset, unsigned int bytes);
int dst_bio_clone(struct bio *bio, struct bio *src, struct block_device *bdev, gfp_t gfp);
struct bio_list *dst_bio_list_swap(struct bio_list *list);

unsigned int dst_pages_idle(struct page *const *pages, unsigned int count);
void dst_get_page(struct page *page);
struct page *dst_zero_page(void);

bool dst_bdev_read_only(struct block_device *bdev);
bool dst_bdev_write_cache(struct block_device *bdev);
unsigned int dst_disk_openers(struct gendisk *disk);

enum dst_plug {
	DST_PLUG_NONE,		/* the task has no plug */
	DST_PLUG_EMPTY,		/* the callback isn't on the task's plug */
	DST_PLUG_HAS,		/* it is */
};
enum dst_plug dst_plug_find(blk_plug_cb_fn callback, const void *data);
void dst_plug_add(struct blk_plug_cb *entry, blk_plug_cb_fn callback, void *data);

#endif
