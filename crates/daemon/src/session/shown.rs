//! What a client is shown of a stack.

use std::os::fd::AsFd as _;

use flyover_proto::{List, RefusedCode, Reply};

use super::{Answer, Progress, Session};
use crate::refusal::Refusal;
use crate::stacks::{Life, Stack};

impl Session {
    pub(super) fn nics(&mut self, seq: u32) -> Result<(), Answer> {
        let stack = self.member()?.stack.clone();
        let life = stack.life_for(&mut Progress::to(self.sock.as_fd(), seq));
        let Life::Live(live) = &*life else {
            return Err(Refusal::bad("the stack has ended").into());
        };
        let (nics, fds) = Stack::nic_list(live);
        let reply = Reply::NicList {
            nic_gen: live.nic_gen,
            nics,
        };
        Ok(self.reply(seq, &reply, &fds)?)
    }

    pub(super) fn stack_fd(&mut self, seq: u32, stack_id: u32) -> Result<(), Answer> {
        let missing = || {
            Refusal::new(
                RefusedCode::NotFound,
                format!("there is no stack {stack_id}"),
            )
        };
        let stack = self.daemon.stacks.by_id(stack_id).ok_or_else(missing)?;
        if !stack.is_open_to(&self.daemon, &self.peer) {
            return Err(Refusal::new(
                RefusedCode::Denied,
                format!("stack {stack_id} is another user's"),
            )
            .into());
        }
        let life = stack.life_for(&mut Progress::to(self.sock.as_fd(), seq));
        let Life::Live(live) = &*life else {
            return Err(missing().into());
        };
        let opts = List::new(stack.wanted.opts.to_words());
        let reply = Reply::StackInfo {
            stack_len: stack.wanted.len,
            opts,
        };
        Ok(self.reply(seq, &reply, &[live.memory.as_fd()])?)
    }
}
