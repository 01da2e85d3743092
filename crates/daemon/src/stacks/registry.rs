//! All stacks. A stack is found by its key as long as it is not given up; quotas of its user count it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flyover_proto::RefusedCode;

use super::stack::{Stack, StackKey, Wanted};
use crate::refusal::Refusal;

/// See the module.
#[derive(Default)]
pub struct Registry(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    by_key: HashMap<StackKey, Arc<Stack>>,
    by_id: BTreeMap<u32, Arc<Stack>>,
    last_id: u32,
}

/// What one user may have; root is not limited.
#[derive(Clone, Copy, Debug)]
pub struct UserQuota {
    /// Stacks.
    pub stacks: u32,
    /// Bytes of all their memories.
    pub memory: u64,
}

impl Registry {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stack with this key, or a new one to be made as `wanted` says. Without a key: always a new one.
    ///
    /// # Errors
    /// The user's quota is used up.
    pub fn find_or_add(
        &self,
        key: Option<StackKey>,
        wanted: Wanted,
        quota: UserQuota,
    ) -> Result<Arc<Stack>, Refusal> {
        let mut inner = self.inner();
        if let Some(stack) = key.as_ref().and_then(|key| inner.by_key.get(key)) {
            return Ok(stack.clone());
        }
        if wanted.uid != 0 {
            let own = || {
                inner
                    .by_id
                    .values()
                    .filter(|stack| stack.wanted.uid == wanted.uid)
            };
            let (count, memory) = (
                own().count(),
                own().map(|stack| stack.wanted.len).sum::<u64>(),
            );
            if count as u64 >= u64::from(quota.stacks) {
                return Err(Refusal::new(
                    RefusedCode::Quota,
                    format!("the user has {count} stacks already"),
                ));
            }
            if memory.saturating_add(wanted.len) > quota.memory {
                let text = format!("the user's stacks have {} MiB already", memory >> 20);
                return Err(Refusal::new(RefusedCode::Quota, text));
            }
        }
        let id = inner.free_id();
        let stack = Arc::new(Stack::new(id, key.clone(), wanted));
        inner.by_id.insert(id, stack.clone());
        if let Some(key) = key {
            inner.by_key.insert(key, stack.clone());
        }
        Ok(stack)
    }

    /// A stack of an earlier daemon has this number.
    pub fn reserve(&self, id: u32) {
        let mut inner = self.inner();
        inner.last_id = inner.last_id.max(id);
    }

    /// Enters a stack of an earlier daemon, whose number is reserved. When its key is taken, only its own processes find
    /// it.
    pub fn found(&self, stack: &Arc<Stack>) {
        let mut inner = self.inner();
        inner.by_id.insert(stack.id, stack.clone());
        if let Some(key) = &stack.key {
            inner
                .by_key
                .entry(key.clone())
                .or_insert_with(|| stack.clone());
        }
    }

    /// Numbers up to some way above the last one turned out to be in use elsewhere.
    pub fn skip(&self, numbers: u16) {
        let mut inner = self.inner();
        inner.last_id = inner.last_id.wrapping_add(numbers.into());
    }

    /// Forgets a stack: whoever asks for its key gets a new one.
    pub fn forget(&self, stack: &Stack) {
        let mut inner = self.inner();
        inner.by_id.remove(&stack.id);
        if let Some(key) = &stack.key
            && inner
                .by_key
                .get(key)
                .is_some_and(|found| found.id == stack.id)
        {
            inner.by_key.remove(key);
        }
    }

    /// The stack with this number.
    pub fn by_id(&self, id: u32) -> Option<Arc<Stack>> {
        self.inner().by_id.get(&id).cloned()
    }

    /// All stacks, in the order of their numbers.
    pub fn list(&self) -> Vec<Arc<Stack>> {
        self.inner().by_id.values().cloned().collect()
    }
}

impl Inner {
    /// Numbers are not used again soon: names of wake sockets and the flow map contain them.
    fn free_id(&mut self) -> u32 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if self.last_id != 0
                && self.last_id != u32::MAX
                && !self.by_id.contains_key(&self.last_id)
            {
                return self.last_id;
            }
        }
    }
}
