// SPDX-License-Identifier: GPL-2.0
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/cred.h>
#include <linux/device.h>
#include <linux/if_vlan.h>
#include <linux/net.h>
#include <linux/nsproxy.h>
#include <linux/page_ref.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/tcp.h>
#include <net/ipv6.h>
#include <net/net_namespace.h>
#include <net/rps.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "helpers.h"

unsigned int dst_memalloc_noio_save(void)
{
	return memalloc_noio_save();
}

void dst_memalloc_noio_restore(unsigned int flags)
{
	memalloc_noio_restore(flags);
}

/* --- net: kern/net.rs, kern/poll.rs, kern/thread.rs, kern/time.rs --- */

unsigned int dst_memalloc_noreclaim_save(void)
{
	return memalloc_noreclaim_save();
}

void dst_memalloc_noreclaim_restore(unsigned int flags)
{
	memalloc_noreclaim_restore(flags);
}

const struct cred *dst_kernel_creds_enter(void)
{
	return override_creds(kernel_cred());
}

void dst_kernel_creds_leave(const struct cred *old)
{
	revert_creds(old);
}

struct net *dst_current_net_get(void)
{
	return get_net(current->nsproxy->net_ns);
}

struct net *dst_net_get(struct net *net)
{
	return get_net(net);
}

void dst_net_put(struct net *net)
{
	put_net(net);
}

/*
 * Lock classes of our own, so that lockdep does not take what a user's socket does (faults under the lock, say) for
 * something that ours could do. Accepted sockets are in the hash tables already, so their locks may be in use: they
 * stay in the class of kernel sockets, which they got from the listener's.
 */
#ifdef CONFIG_DEBUG_LOCK_ALLOC
static struct lock_class_key dst_sk_key[2][2];
static struct lock_class_key dst_slock_key[2][2];

static void dst_socket_reclassify(struct sock *sk, enum dst_socket_role role)
{
	bool v6 = sk->sk_family == AF_INET6;

	if (role == DST_SOCKET_ACCEPTED || WARN_ON_ONCE(!sock_allow_reclassification(sk)))
		return;

	if (role == DST_SOCKET_LISTENER)
		sock_lock_init_class_and_name(sk, "slock-DST-LISTEN", &dst_slock_key[1][v6],
					      "sk_lock-DST-LISTEN", &dst_sk_key[1][v6]);
	else
		sock_lock_init_class_and_name(sk, "slock-DST", &dst_slock_key[0][v6],
					      "sk_lock-DST", &dst_sk_key[0][v6]);

	/*
	 * This made the socket hold the module, and rmmod could never end what is running. The module's exit releases
	 * all these sockets itself, and they are aborted: none uses its lock after that.
	 */
	sk_owner_put(sk);
	sk_owner_clear(sk);
}
#else
static void dst_socket_reclassify(struct sock *sk, enum dst_socket_role role)
{
}
#endif

/* Before the socket is bound or connected (or right after it was accepted), and used by nobody else. */
void dst_socket_prepare(struct socket *sock, enum dst_socket_role role)
{
	struct sock *sk = sock->sk;

	dst_socket_reclassify(sk, role);

	/* An accepted socket has the listener's reference to the network namespace already. */
	if (!sk->sk_net_refcnt)
		sk_net_refcnt_upgrade(sk);

	sk->sk_allocation = GFP_NOIO;
	sk->sk_use_task_frag = false;
	sock_no_linger(sk);

	if (role == DST_SOCKET_LISTENER) {
		sock_set_reuseaddr(sk);
		if (sk->sk_family == AF_INET6)
			ip6_sock_set_v6only(sk);
	} else {
		tcp_sock_set_nodelay(sk);
		sk_set_memalloc(sk);
	}
}

/* From now on, closing lets what was sent go out first. */
void dst_socket_linger(struct sock *sk)
{
	lock_sock(sk);
	sock_reset_flag(sk, SOCK_LINGER);
	release_sock(sk);
}

void dst_sock_lock(struct sock *sk)
{
	lock_sock(sk);
}

/* What inet_sendmsg() does before tcp_sendmsg(), as far as it concerns a connected socket. */
void dst_sock_lock_to_send(struct sock *sk)
{
	sock_rps_record_flow(sk);
	lock_sock(sk);
}

void dst_sock_hold(struct sock *sk)
{
	sock_hold(sk);
}

void dst_sock_put(struct sock *sk)
{
	sock_put(sk);
}

int dst_sock_error_take(struct sock *sk)
{
	return sock_error(sk);
}

int dst_sock_state(const struct sock *sk)
{
	return inet_sk_state_load(sk);
}

bool dst_sock_at_end(const struct sock *sk)
{
	return sock_flag(sk, SOCK_DONE) || (READ_ONCE(sk->sk_shutdown) & RCV_SHUTDOWN) ||
		inet_sk_state_load(sk) == TCP_CLOSE;
}

/* With the socket's lock held, after nothing could be read: urgent data are in the way, and read_sock stays there. */
bool dst_sock_is_stuck(const struct sock *sk)
{
	return tcp_sk(sk)->urg_data && !skb_queue_empty(&sk->sk_receive_queue);
}

bool dst_sock_tx_pending(const struct sock *sk)
{
	return READ_ONCE(sk->sk_wmem_queued) > 0 || sk_wmem_alloc_get(sk) > 0;
}

static int dst_dev_is_local(struct net_device *dev, struct netdev_nested_priv *unused)
{
	/* Hardware, even a virtual machine's, copies what it sends. These only hand on to what is below them. */
	return !dev->dev.parent && !is_vlan_dev(dev) && !netif_is_bond_master(dev) && !netif_is_team_master(dev) &&
		!netif_is_bridge_master(dev);
}

/* Whether what a connected socket sends leaves this kernel for certain, as opposed to loopback and veth. */
bool dst_sock_leaves(struct sock *sk)
{
	struct netdev_nested_priv priv = {};
	struct dst_entry *dst = sk_dst_get(sk);
	struct net_device *dev;
	bool leaves;

	if (!dst)
		return false;
	rcu_read_lock();
	dev = dst_dev_rcu(dst);
	leaves = !dst_dev_is_local(dev, &priv) && !netdev_walk_all_lower_dev_rcu(dev, dst_dev_is_local, &priv);
	rcu_read_unlock();
	dst_release(dst);
	return leaves;
}

/* From here on the current task sleeps, without counting as load, at the next schedule(). */
void dst_task_state_idle(void)
{
	set_current_state(TASK_IDLE);
}

void dst_task_state_running(void)
{
	__set_current_state(TASK_RUNNING);
}

void dst_cond_resched(void)
{
	cond_resched();
}

/* --- sysfs: kern/sysfs.rs --- */

void dst_device_set_pm_not_required(struct device *dev)
{
	device_set_pm_not_required(dev);
}

/* --- module: kern/module.rs --- */

struct module *dst_this_module(void)
{
	return THIS_MODULE;
}

/* --- block layer: kern/{pool,bio,lower,span,bdev,disk,plug}.rs --- */

/* Notes an error of one share of a bio: the first one stays. */
void dst_bio_fail(struct bio *bio, blk_status_t status)
{
	cmpxchg(&bio->bi_status, BLK_STS_OK, status);
}

/* One more bio_endio() is needed to end the bio. The caller owns a share, so the flag can't go away here. */
void dst_bio_share(struct bio *bio)
{
	if (bio_flagged(bio, BIO_CHAIN))
		atomic_inc(&bio->__bi_remaining);
	else
		bio_inc_remaining(bio);
}

bool dst_bvec_sendpage_ok(const struct bio_vec *bvec, unsigned int offset, unsigned int bytes)
{
	unsigned int start = bvec->bv_offset + offset;
	unsigned int i;

	for (i = start >> PAGE_SHIFT; i <= (start + bytes - 1) >> PAGE_SHIFT; i++)
		if (!sendpage_ok(bvec->bv_page + i))
			return false;
	return true;
}

/*
 * bio_init_clone() with a device would look for the control group twice: that of the current task, and that of the
 * source.
 */
int dst_bio_clone(struct bio *bio, struct bio *src, struct block_device *bdev, gfp_t gfp)
{
	int ret = bio_init_clone(NULL, bio, src, gfp);

	if (ret)
		return ret;
	bio->bi_bdev = bdev;
#ifdef CONFIG_BLK_CGROUP
	if (src->bi_blkg)
		bio_clone_blkg_association(bio, src);
	else
		bio_associate_blkg(bio);
#endif
	return 0;
}

struct bio_list *dst_bio_list_swap(struct bio_list *list)
{
	struct bio_list *old = current->bio_list;

	current->bio_list = list;
	return old;
}

/* How many of these pages have no reference but ours, until the first one that has. */
unsigned int dst_pages_idle(struct page *const *pages, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++)
		if (page_ref_count(pages[i]) != 1)
			break;
	return i;
}

struct page *dst_zero_page(void)
{
	return ZERO_PAGE(0);
}

void dst_get_page(struct page *page)
{
	get_page(page);
}

bool dst_bdev_read_only(struct block_device *bdev)
{
	return bdev_read_only(bdev);
}

bool dst_bdev_write_cache(struct block_device *bdev)
{
	return bdev_write_cache(bdev);
}

unsigned int dst_disk_openers(struct gendisk *disk)
{
	return disk_openers(disk);
}

/* Whether this callback, with this data, waits for the current task to take off its plug. */
enum dst_plug dst_plug_find(blk_plug_cb_fn callback, const void *data)
{
	struct blk_plug *plug = current->plug;
	struct blk_plug_cb *entry;

	if (!plug)
		return DST_PLUG_NONE;
	list_for_each_entry(entry, &plug->cb_list, list)
		if (entry->callback == callback && entry->data == data)
			return DST_PLUG_HAS;
	return DST_PLUG_EMPTY;
}

/* Puts an entry that is on no list on the current task's plug, which must be there. */
void dst_plug_add(struct blk_plug_cb *entry, blk_plug_cb_fn callback, void *data)
{
	entry->callback = callback;
	entry->data = data;
	list_add(&entry->list, &current->plug->cb_list);
}
