//! Where a server listens. Nothing but this machine is served unless that is asked for: there is
//! no authentication.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

use tokio::net::{TcpListener, TcpSocket};

use crate::exit::Failure;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// An address to listen on, and the flag that sets it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listen {
    pub(crate) address: SocketAddr,
    pub(crate) flag: &'static str,
}

impl Listen {
    /// Reads `host:port`.
    pub(crate) fn parse(text: &str, flag: &'static str) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::usage(format!("{flag} {text}: {why}"));
        let addresses: Vec<SocketAddr> = text
            .to_socket_addrs()
            .map_err(|error| wrong(&error.to_string()))?
            .collect();
        // A name such as localhost can stand for addresses of both families: clients try IPv4.
        let address = addresses.iter().find(|a| a.is_ipv4()).or(addresses.first());
        let address = *address.ok_or_else(|| wrong("no address found"))?;
        Ok(Self { address, flag })
    }

    /// Reads an IP address or `localhost`, with a port beside it.
    pub(crate) fn of(ip: &str, port: u16, flag: &'static str) -> Result<Self, Failure> {
        let ip = match ip {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip
                .parse()
                .map_err(|_| Failure::usage(format!("{ip} is not an IP address")))?,
        };
        Ok(Self {
            address: SocketAddr::new(ip, port),
            flag,
        })
    }

    /// Refuses addresses that other machines reach.
    pub(crate) fn check_remote(&self, allowed: bool) -> Result<(), Failure> {
        if allowed || self.address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(Failure::usage(format!(
            "{} can be reached from other machines, and there is no authentication: whoever \
             connects can read and change everything. If that is what you want, add \
             --allow-remote; else listen on 127.0.0.1.",
            self.address
        )))
    }

    /// Binds the address.
    pub(crate) fn bind(&self) -> Result<TcpListener, Failure> {
        let Self { address, flag } = *self;
        self.try_bind().map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => Failure::AddressInUse { address, flag },
            _ => Failure::general(format!("cannot listen on {address} ({flag}): {error}")),
        })
    }

    fn try_bind(&self) -> std::io::Result<TcpListener> {
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A restart must not wait for the connections of the process before it to be forgotten.
        socket.set_reuseaddr(cfg!(unix))?;
        socket.bind(self.address)?;
        socket.listen(BACKLOG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_unless_asked() {
        for (text, local) in [
            ("127.0.0.1:7233", true),
            ("127.0.0.9:0", true),
            ("[::1]:7233", true),
            ("[::ffff:127.0.0.1]:7233", true),
            ("0.0.0.0:7233", false),
            ("[::]:7233", false),
            ("192.168.1.5:7233", false),
        ] {
            let listen = Listen::parse(text, "--listen").unwrap();
            assert_eq!(listen.check_remote(false).is_ok(), local, "{text}");
            assert!(listen.check_remote(true).is_ok());
        }
        assert!(Listen::parse("nonsense", "--listen").is_err());
        assert!(Listen::of("localhost", 1, "--ip").is_ok());
        assert!(Listen::of("256.1.1.1", 1, "--ip").is_err());
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let first = Listen::of("127.0.0.1", 0, "--port")
            .unwrap()
            .bind()
            .unwrap();
        let port = first.local_addr().unwrap().port();
        let failure = Listen::of("127.0.0.1", port, "--port")
            .unwrap()
            .bind()
            .unwrap_err();
        assert_eq!(failure.code(), 3);
        assert!(failure.to_string().contains(&port.to_string()));
    }
}
