//! Passive open.

use crate::error::Error;
use crate::sock::{Kind, SockId, flag};
use crate::stack::locked::Locked;
use crate::tcp::state::TcpState;
use flyover_wire::Endpoint;

impl Locked<'_, '_, '_> {
    /// Another backlog for a listener.
    pub fn set_backlog(&mut self, id: SockId, backlog: u32) {
        if let Some(s) = self.st.net_of(id) {
            s.net.backlog.set(backlog);
        }
    }

    /// Listens on a local address, or changes the backlog of a listener. `dual`: a v6 wildcard that takes IPv4 too.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the socket is connected.
    pub fn tcp_listen(
        &mut self,
        id: SockId,
        local: Endpoint,
        dual: bool,
        backlog: u32,
    ) -> Result<(), Error> {
        let s = self.st.become_net(id);
        if s.kind() != Kind::Tcp {
            return Err(Error::Invalid);
        }
        s.net.backlog.set(backlog.min(self.st.opts.somaxconn));
        match s.tcp_state() {
            TcpState::Listen => return Ok(()),
            TcpState::Closed => {}
            _ => return Err(Error::Invalid),
        }
        s.set_local(local);
        s.put_flag(flag::DUAL, dual);
        s.set_tcp_state(TcpState::Listen);
        self.st.hash_port(id);
        Ok(())
    }
}
