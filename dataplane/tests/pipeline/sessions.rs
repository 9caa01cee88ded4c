//! How long sessions live.

use sluice_dataplane::clock::{MILLISECOND, Nanos, SECOND};
use sluice_dataplane::snapshot::Timeouts;
use sluice_dataplane::verdict::DropReason;

use crate::lab::{LAN, Lab, SERVER, WAN, host, snapshot};
use crate::packets::{ACK, End, FIN, RST, SYN, ends, ping, pong, tcp, udp};

const TRANSITORY: Nanos = 240 * SECOND;
const ESTABLISHED: Nanos = 7440 * SECOND;

/// A TCP connection through the gateway.
struct Connection {
    lab: Lab,
    inside: End,
    server: End,
    outside: End,
}

impl Connection {
    fn open() -> Self {
        let mut lab = Lab::new(snapshot());
        let (inside, server) = ((host(9), 4000), (SERVER, 443));
        let (_, out) = lab.forward(LAN, &tcp(inside, server, SYN, b""));
        let mut connection = Self { outside: ends(&out).0, lab, inside, server };
        connection.reply(SYN | ACK);
        connection.say(ACK);
        connection
    }

    fn say(&mut self, flags: u8) {
        let (port, out) = self.lab.forward(LAN, &tcp(self.inside, self.server, flags, b""));
        assert_eq!((port, ends(&out).0), (WAN, self.outside));
    }

    fn reply(&mut self, flags: u8) {
        let (port, out) = self.lab.forward(WAN, &tcp(self.server, self.outside, flags, b""));
        assert_eq!((port, ends(&out).1), (LAN, self.inside));
    }

    /// The session lives that long, and no longer than a second more.
    #[track_caller]
    fn ends_after(mut self, timeout: Nanos) {
        self.lab.wait(timeout - 20 * MILLISECOND);
        assert_eq!(self.lab.worker.shard().sessions.live(), 1);
        self.lab.wait(SECOND + 40 * MILLISECOND);
        let shard = self.lab.worker.shard();
        assert_eq!((shard.sessions.live(), shard.nat.live()), (0, 0));
        let late = tcp(self.server, self.outside, ACK, b"");
        assert_eq!(self.lab.dropped(WAN, &late), DropReason::AclDeny);
        self.lab.close();
    }
}

/// proves: RFC 5382 REQ-5
/// proves: RFC 7857 2
#[test]
fn a_connection_that_is_open_both_ways_lives_long() {
    Connection::open().ends_after(ESTABLISHED);
}

#[test]
fn a_connection_that_one_end_has_finished_is_still_open() {
    let mut connection = Connection::open();
    connection.say(FIN | ACK);
    connection.reply(ACK);
    connection.ends_after(ESTABLISHED);
}

/// proves: RFC 7857 2
#[test]
fn a_connection_that_both_ends_have_finished_is_transitory() {
    let mut connection = Connection::open();
    connection.say(FIN | ACK);
    connection.reply(FIN | ACK);
    connection.say(ACK);
    connection.ends_after(TRANSITORY);
}

#[test]
fn a_reset_by_either_end_makes_a_connection_transitory() {
    let mut connection = Connection::open();
    connection.reply(RST);
    connection.ends_after(TRANSITORY);
    let mut connection = Connection::open();
    connection.say(RST | ACK);
    connection.ends_after(TRANSITORY);
}

#[test]
fn a_syn_begins_a_finished_connection_anew_from_the_same_port() {
    for end in [RST, FIN] {
        let mut connection = Connection::open();
        connection.say(end);
        connection.reply(end);
        connection.lab.wait(10 * SECOND);
        connection.say(SYN);
        connection.reply(SYN | ACK);
        connection.say(ACK);
        assert_eq!(connection.lab.counters().sessions_created, 1);
        connection.ends_after(ESTABLISHED);
    }
}

/// proves: RFC 5382 REQ-5
/// proves: RFC 7857 2
#[test]
fn a_connection_that_is_never_answered_is_transitory() {
    let mut lab = Lab::new(snapshot());
    let syn = tcp((host(9), 4000), (SERVER, 443), SYN, b"");
    for _ in 0..3 {
        lab.forward(LAN, &syn);
    }
    lab.wait(239 * SECOND);
    assert_eq!(lab.worker.shard().sessions.live(), 1);
    lab.wait(2 * SECOND);
    assert_eq!(lab.worker.shard().sessions.live(), 0);
    lab.close();
}

#[test]
fn traffic_either_way_keeps_a_session_without_nat_alive() {
    let mut snapshot = snapshot();
    snapshot.source_nat.clear();
    let mut lab = Lab::new(snapshot);
    let (inside, server) = ((host(9), 4000), (SERVER, 53));
    let (_, out) = lab.forward(LAN, &udp(inside, server, b"question"));
    let (_, echo) = lab.forward(LAN, &ping(host(9), SERVER, 5));
    for _ in 0..20 {
        lab.wait(50 * SECOND);
        lab.forward(WAN, &udp(server, ends(&out).0, b"answer"));
        let (_, reply) = lab.forward(WAN, &pong(SERVER, ends(&echo).0.0, ends(&echo).0.1));
        assert_eq!(ends(&reply).1, (host(9), 5));
    }
    assert_eq!(lab.counters().sessions_created, 2);
    lab.close();
}

/// However few sessions there are, and however oddly polls come, each is looked at within a second of its end.
#[test]
fn sessions_end_within_a_second_of_their_timeout() {
    for (sessions, pause) in [(1, 300), (2, 900), (3, 500), (3, 650), (7, 280), (40, 49)] {
        let mut snapshot = snapshot();
        snapshot.timeouts = Timeouts { udp: 5 * SECOND, ..snapshot.timeouts };
        let mut lab = Lab::new(snapshot);
        for port in 0..sessions {
            lab.forward(LAN, &udp((host(9), 4000 + port), (SERVER, 53), b"question"));
        }
        let start = lab.now;
        while lab.worker.shard().sessions.live() > 0 {
            lab.wait(pause * MILLISECOND);
        }
        let lived = lab.now - start;
        let latest = 6 * SECOND + (pause + 20) * MILLISECOND;
        assert!(lived <= latest, "{sessions} sessions, a poll each {pause} ms: {lived} ns");
        lab.close();
    }
}
