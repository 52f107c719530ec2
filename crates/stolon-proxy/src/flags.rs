//! The command line.

use std::time::Duration;

use clap::Parser;
use socket2::TcpKeepalive;
use stolon_core::proxy::OnSilence;
use stolon_runtime::{CommonArgs, EndpointFlags, UsageError, go_duration, go_integer, host};

use crate::client_address::ClientAddress;
use crate::proxy::ProxyOptions;
use crate::resolve::port_number;
use crate::socket::SocketOptions;

/// Sends PostgreSQL clients to the primary of a cluster.
#[derive(Clone, Debug, Parser)]
pub struct Flags {
    /// What all programs share.
    #[command(flatten)]
    pub common: CommonArgs,

    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS", value_parser = host)]
    pub listen_address: String,

    /// Port to listen on: a number or the name of a service
    #[arg(long, default_value = "5432", value_name = "PORT")]
    pub port: String,

    /// Stop listening while the store has been silent for proxyTimeout
    #[arg(long, default_value_t = true)]
    pub stop_listening: bool,

    /// Seconds of silence before a client's connection is probed; 0: 15
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = go_integer)]
    pub tcp_keepalive_idle: i64,

    /// Unanswered probes that end a client's connection; 0: the system's default
    #[arg(long, default_value = "0", value_name = "PROBES", value_parser = go_integer)]
    pub tcp_keepalive_count: i64,

    /// Seconds between probes of a client's connection; 0: 15
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = go_integer)]
    pub tcp_keepalive_interval: i64,

    /// Most connections that one client address may have; more are closed at once. 0: as many as come
    #[arg(long, default_value = "0", value_name = "NUMBER", value_parser = go_integer)]
    pub connections_per_client: i64,

    /// Tell the server where each client comes from, by version 2 of the PROXY protocol: for a pooler that understands it,
    /// PostgreSQL itself does not
    #[arg(long)]
    pub send_proxy_protocol: bool,

    /// How keepers are asked while the store is away.
    #[command(flatten)]
    pub endpoint: EndpointFlags,

    /// How long connecting to the primary may take
    #[arg(long, default_value = "10s", value_name = "SPAN", value_parser = go_duration)]
    pub connect_timeout: Duration,

    /// How long open connections may go on after SIGTERM
    #[arg(long, default_value = "1s", value_name = "SPAN", value_parser = go_duration)]
    pub drain_timeout: Duration,
}

/// When a silent peer counts as gone: after a number of probes in a row without an answer; times in seconds.
struct Probes {
    idle: u32,
    interval: u32,
    count: u32,
}

/// Where nothing else is asked for. The count is the kernel's default (tcp(7)).
const KEEPALIVE: Probes = Probes { idle: 15, interval: 15, count: 9 };

impl Probes {
    /// A peer that does not acknowledge what was sent to it counts as gone after the same time as one that answers no probe.
    fn options(&self) -> SocketOptions {
        let seconds = |value: u32| Duration::from_secs(value.into());
        SocketOptions {
            keepalive: TcpKeepalive::new()
                .with_time(seconds(self.idle))
                .with_interval(seconds(self.interval))
                .with_retries(self.count),
            user_timeout: Some(seconds(self.idle) + seconds(self.interval) * self.count),
        }
    }
}

impl Flags {
    /// What the flags say, checked.
    ///
    /// # Errors
    /// A number is out of range.
    pub fn proxy_options(&self) -> Result<ProxyOptions, UsageError> {
        port_number(&self.port).map_err(|cause| {
            UsageError::new(format!("--port: {cause}"))
                .hint("give a number from 0 to 65535, or a name of /etc/services")
        })?;
        let idle = keepalive_value("idle", self.tcp_keepalive_idle, 32_767)?;
        let count = keepalive_value("count", self.tcp_keepalive_count, 127)?;
        let interval = keepalive_value("interval", self.tcp_keepalive_interval, 32_767)?;
        if self.connect_timeout.is_zero() {
            return Err(
                UsageError::new("--connect-timeout must be greater than zero").hint("its default is 10s")
            );
        }
        let or = |value: u32, default: u32| if value == 0 { default } else { value };
        let client = Probes {
            idle: or(idle, KEEPALIVE.idle),
            interval: or(interval, KEEPALIVE.interval),
            count: or(count, KEEPALIVE.count),
        };
        let most = u32::try_from(self.connections_per_client).map_err(|_| {
            UsageError::new(format!("--connections-per-client must be from 0 to {}", u32::MAX))
                .hint("leave it out for as many as come")
        })?;
        Ok(ProxyOptions {
            listen_address: self.listen_address.clone(),
            port: self.port.clone(),
            on_silence: match self.stop_listening {
                true => OnSilence::StopListening,
                false => OnSilence::KeepListening,
            },
            client_socket: client.options(),
            server_socket: KEEPALIVE.options(),
            connections_per_client: (most > 0).then_some(most),
            client_address: match self.send_proxy_protocol {
                true => ClientAddress::ProxyProtocol,
                false => ClientAddress::Hidden,
            },
            asker: self.endpoint.asker()?,
            connect_timeout: self.connect_timeout,
            drain_timeout: self.drain_timeout,
        })
    }
}

/// The greatest values are the kernel's.
fn keepalive_value(name: &str, value: i64, greatest: u32) -> Result<u32, UsageError> {
    if value < 0 {
        return Err(UsageError::new(format!("tcp keepalive {name} value must be greater or equal to 0"))
            .hint(format!("leave --tcp-keepalive-{name} out for the default")));
    }
    u32::try_from(value).ok().filter(|value| *value <= greatest).ok_or_else(|| {
        UsageError::new(format!("tcp keepalive {name} value must be at most {greatest}"))
            .hint(format!("leave --tcp-keepalive-{name} out for the default"))
    })
}
