// SPDX-License-Identifier: GPL-2.0

//! The remote nodes of one storage, as its network thread serves them.

use kernel::{
    new_mutex,
    prelude::*,
    sync::Arc,
    time::Jiffies, //
};

use crate::{
    events::Events,
    kern::{
        mem::NoIoMutex,
        time, //
    },
    net_state::{
        Net,
        Service,
        TOKENS, //
    },
    node_remote::{
        self,
        RemoteNode, //
    },
};

/// The nodes; a node's token is its place.
#[pin_data]
pub(crate) struct Remotes {
    #[pin]
    nodes: NoIoMutex<KVec<Option<Arc<RemoteNode>>>>,
    events: Arc<Events>,
}

impl Remotes {
    /// No nodes.
    pub(crate) fn new(events: Arc<Events>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                nodes <- NoIoMutex::new(new_mutex!(KVec::new(), "dst::remotes::nodes")),
                events,
            }),
            GFP_KERNEL,
        )
    }

    /// Adds the node that `make` makes for the token that it is given.
    pub(crate) fn add(
        &self,
        make: impl FnOnce(u32) -> Result<Arc<RemoteNode>>,
    ) -> Result<Arc<RemoteNode>> {
        let mut nodes = self.nodes.lock();
        let token = match nodes.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                nodes.push(None, GFP_KERNEL)?;
                nodes.len() - 1
            }
        };
        let token = u32::try_from(token)?;
        if token >= TOKENS {
            return Err(ENOSPC);
        }
        let node = make(token)?;
        if let Some(place) = nodes.get_mut(token as usize) {
            *place = Some(node.clone());
        }
        Ok(node)
    }

    /// Forgets the node with this token. It must be closed.
    pub(crate) fn remove(&self, token: u32) {
        let node = self
            .nodes
            .lock()
            .get_mut(token as usize)
            .and_then(Option::take);
        // Not under the lock: the last reference waits for what the node still does.
        drop(node);
    }

    fn get(&self, token: u32) -> Option<Arc<RemoteNode>> {
        self.nodes.lock().get(token as usize)?.clone()
    }
}

impl Service for Remotes {
    fn ready(&self, net: &Arc<Net>, token: u32) {
        if let Some(node) = self.get(token) {
            if node_remote::serve(&node) {
                net.kick_tick();
            }
            if node.ctx().take_news() {
                self.events.tell();
            }
        }
    }

    fn tick(&self, _net: &Arc<Net>, now: Jiffies) -> Option<Jiffies> {
        let mut next = None;
        for token in 0.. {
            let node = match self.nodes.lock().get(token) {
                Some(node) => node.clone(),
                None => break,
            };
            if let Some(node) = node {
                next = time::earliest(next, node_remote::tick(&node, now));
                if node.ctx().take_news() {
                    self.events.tell();
                }
            }
        }
        next
    }
}
