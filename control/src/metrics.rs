//! Everything that is counted, in Prometheus' text format (0.0.4). Names and units follow its conventions; each is as of
//! the last time that the workers published, some 10 ms ago.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};
use sluice_dataplane::counters::Counters;
use sluice_dataplane::port::af_xdp::DeviceControl;
use sluice_dataplane::pulse;
use sluice_dataplane::snapshot::Snapshot;
use sluice_dataplane::verdict::DropReason;

use crate::export::SinkStatus;
use crate::qos_view::{CAUSES, Sum};
use crate::state::State;
use crate::watch::{Health, Loop};

type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page under way.
#[derive(Default)]
struct Page(Vec<MetricFamily>);

impl Page {
    fn family(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.into());
        family.set_help(help.into());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }

    fn counters<'a>(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels<'a>, u64)>) {
        let row = |(labels, value): (Labels<'_>, u64)| {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            let mut metric = labelled(labels);
            metric.set_counter(counter);
            metric
        };
        let metrics = rows.into_iter().map(row).collect();
        self.family(name, help, MetricType::COUNTER, metrics);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, [(&[] as Labels<'_>, value)]);
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, vec![(Vec::new(), value)]);
    }

    fn gauges(&mut self, name: &str, help: &str, rows: Vec<(Vec<(&str, &str)>, f64)>) {
        let row = |(labels, value): (Vec<(&str, &str)>, f64)| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            let mut metric = labelled(&labels);
            metric.set_gauge(gauge);
            metric
        };
        self.family(name, help, MetricType::GAUGE, rows.into_iter().map(row).collect());
    }

    fn text(&self) -> String {
        let mut text = Vec::new();
        // It fails on families without a metric, of which there are none.
        let _ = TextEncoder::new().encode(&self.0, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn labelled(labels: Labels<'_>) -> Metric {
    let label = |&(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.into());
        pair.set_value(value.into());
        pair
    };
    Metric::from_label(labels.iter().map(label).collect())
}

/// The page of a running gateway.
pub fn text(state: &State) -> String {
    let mut page = Page::default();
    build_info(&mut page);
    // Read once, so that all of them are of one moment.
    let (snapshot, counters) = state.totals();
    let counters = state.with_kernel(counters);
    packets(&mut page, &snapshot, &counters);
    sessions(&mut page, &snapshot, &counters);
    nat_log(&mut page, &counters, &state.nat_log());
    exports(&mut page, &counters, &state.exports());
    policy(&mut page, &snapshot, &counters);
    accounts(&mut page, state, &snapshot);
    classes(&mut page, &state.class_sums(&snapshot));
    let drops = |device: &DeviceControl| {
        let drops = device.kernel_drops();
        (device.name().to_owned(), [drops.rx_dropped, drops.rx_ring_full, drops.fill_ring_empty])
    };
    devices(&mut page, &state.devices().iter().map(drops).collect::<Vec<_>>());
    workers(&mut page, &state.watch().loops());
    page.text()
}

fn build_info(page: &mut Page) {
    page.gauges(
        "sluice_build_info",
        "The version that runs; the value is 1.",
        vec![(vec![("version", env!("CARGO_PKG_VERSION"))], 1.0)],
    );
}

/// What every packet is accounted for by.
fn packets(page: &mut Page, snapshot: &Snapshot, counters: &Counters) {
    let ports: Vec<_> = snapshot.ports.iter().map(|port| [("port", port.name.as_str())]).collect();
    let ports = || ports.iter().map(|labels| labels.as_slice()).zip(&counters.ports);
    page.counters(
        "sluice_port_receive_packets_total",
        "Frames received, those left to the kernel included.",
        ports().map(|(labels, count)| (labels, count.rx.packets)),
    );
    page.counters(
        "sluice_port_receive_bytes_total",
        "Bytes received, Ethernet header included, FCS not.",
        ports().map(|(labels, count)| (labels, count.rx.bytes)),
    );
    page.counters(
        "sluice_port_transmit_packets_total",
        "Frames sent.",
        ports().map(|(labels, count)| (labels, count.tx.packets)),
    );
    page.counters(
        "sluice_port_transmit_bytes_total",
        "Bytes sent, Ethernet header included, FCS not.",
        ports().map(|(labels, count)| (labels, count.tx.bytes)),
    );
    let reasons: Vec<_> = DropReason::ALL.iter().map(|reason| [("reason", reason.name())]).collect();
    page.counters(
        "sluice_dropped_packets_total",
        "Packets that died, by reason.",
        reasons.iter().map(|labels| labels.as_slice()).zip(counters.drops.iter().copied()),
    );
    page.counter(
        "sluice_punted_packets_total",
        "Packets for the gateway itself, and frames left to the kernel.",
        counters.punted,
    );
    page.counter("sluice_originated_packets_total", "Packets that the gateway made.", counters.originated);
    page.counter(
        "sluice_split_extra_packets_total",
        "Further packets made by fragmenting.",
        counters.split_extra,
    );
    page.counter(
        "sluice_icmp_suppressed_packets_total",
        "ICMP answers not sent because of their rate.",
        counters.icmp_suppressed,
    );
    page.gauge("sluice_held_packets", "Packets that wait.", counters.held as f64);
    page.gauge(
        "sluice_conserved",
        "Whether every packet is accounted for; 0 is a defect of Sluice.",
        f64::from(u8::from(counters.conserved())),
    );
    page.gauge(
        "sluice_unaccounted_packets",
        "Packets that came less those that are accounted for; anything but 0 is a defect of Sluice.",
        counters.unaccounted() as f64,
    );
}

fn sessions(page: &mut Page, snapshot: &Snapshot, counters: &Counters) {
    page.gauge(
        "sluice_config_generation",
        "The configuration that all workers have adopted.",
        snapshot.generation.into(),
    );
    page.gauge("sluice_sessions", "Live sessions.", counters.sessions as f64);
    page.gauge(
        "sluice_sessions_limit",
        "Sessions that there is room for.",
        f64::from(snapshot.sizes.sessions),
    );
    page.counter("sluice_sessions_created_total", "Sessions made.", counters.sessions_created);
    page.counter("sluice_sessions_ended_total", "Sessions ended.", counters.sessions_ended);
    page.counter(
        "sluice_sessions_ended_by_policy_total",
        "Sessions ended because another configuration does not allow them.",
        counters.sessions_ended_by_policy,
    );
    page.counter(
        "sluice_sessions_evicted_total",
        "Sessions that gave way to new ones, as the table was full.",
        counters.sessions_evicted,
    );
    page.gauge("sluice_nat_bindings", "Live NAT bindings.", counters.bindings as f64);
    page.counter(
        "sluice_port_control_requests_total",
        "Requests of inside hosts about their mappings (PCP, NAT-PMP).",
        counters.port_control_requests,
    );
    page.counter(
        "sluice_port_control_refused_total",
        "Requests of inside hosts about their mappings that were refused.",
        counters.port_control_refused,
    );
    page.gauge(
        "sluice_port_control_mappings",
        "Mappings that inside hosts have asked for.",
        counters.leases as f64,
    );
}

fn nat_log(page: &mut Page, counters: &Counters, sinks: &[SinkStatus]) {
    page.counter("sluice_nat_log_records_total", "Records for the NAT log.", counters.nat_recorded);
    page.counter(
        "sluice_nat_log_records_lost_total",
        "Records for the NAT log that found no room on their way to it.",
        counters.nat_unrecorded,
    );
    let labels: Vec<_> = sinks.iter().map(|sink| [("sink", sink.sink.as_str())]).collect();
    page.counters(
        "sluice_nat_log_sink_lost_total",
        "Records that a sink of the NAT log did not take.",
        labels.iter().map(|labels| labels.as_slice()).zip(sinks.iter().map(|sink| sink.lost)),
    );
}

fn exports(page: &mut Page, counters: &Counters, exporters: &[SinkStatus]) {
    page.counter("sluice_flow_records_total", "Records of what passed by flows.", counters.flows_recorded);
    page.counter(
        "sluice_flow_records_lost_total",
        "Records of what passed by flows that found no room on their way to the exporter.",
        counters.flows_unrecorded,
    );
    page.counter("sluice_packet_samples_total", "Packets sampled.", counters.samples);
    page.counter(
        "sluice_packet_samples_lost_total",
        "Packets sampled that found no room on their way to the exporter.",
        counters.samples_lost,
    );
    let labels: Vec<_> = exporters.iter().map(|one| [("exporter", one.sink.as_str())]).collect();
    let each = || labels.iter().map(|labels| labels.as_slice()).zip(exporters);
    page.counters(
        "sluice_export_sent_records_total",
        "Records that an exporter sent.",
        each().map(|(labels, one)| (labels, one.written)),
    );
    page.counters(
        "sluice_export_lost_records_total",
        "Records that an exporter could not send.",
        each().map(|(labels, one)| (labels, one.lost)),
    );
}

/// What has become of each class of a shaper.
fn classes(page: &mut Page, classes: &[(String, String, Sum)]) {
    let labels: Vec<_> =
        classes.iter().map(|(port, class, _)| [("port", port.as_str()), ("class", class.as_str())]).collect();
    let each = || labels.iter().map(|labels| labels.as_slice()).zip(classes.iter().map(|(.., sum)| sum));
    let mut sums = |name, help, of: fn(&Sum) -> u64| {
        page.counters(name, help, each().map(|(labels, sum)| (labels, of(sum))));
    };
    sums("sluice_class_sent_packets_total", "Packets that left a class.", |sum| sum.packets);
    sums("sluice_class_sent_bytes_total", "Bytes that left a class, on the wire.", |sum| sum.bytes);
    sums("sluice_class_marked_packets_total", "Packets marked by ECN in a class.", |sum| sum.marks);
    let causes: Vec<_> = each()
        .flat_map(|(labels, sum)| {
            CAUSES.iter().zip(sum.drops).map(|((cause, _), count)| {
                let mut labels = labels.to_vec();
                labels.push(("cause", *cause));
                (labels, count)
            })
        })
        .collect();
    page.counters(
        "sluice_class_dropped_packets_total",
        "Packets dropped in a class, by cause.",
        causes.iter().map(|(labels, count)| (labels.as_slice(), *count)),
    );
    let mut gauges = |name, help, of: fn(&Sum) -> u64| {
        page.gauges(name, help, each().map(|(labels, sum)| (labels.to_vec(), of(sum) as f64)).collect());
    };
    gauges("sluice_class_backlog_packets", "Packets that wait in a class.", |sum| sum.backlog_packets);
    gauges("sluice_class_backlog_bytes", "Bytes that wait in a class.", |sum| sum.backlog_bytes);
    let waits = each().flat_map(|(labels, sum)| {
        [("50", sum.wait_p50), ("99", sum.wait_p99)].into_iter().filter_map(|(percentile, wait)| {
            let mut labels = labels.to_vec();
            labels.push(("percentile", percentile));
            Some((labels, wait? as f64 / 1e9))
        })
    });
    let waits = waits.collect();
    page.gauges(
        "sluice_class_wait_seconds",
        "How long packets waited that left a class in the last second or two.",
        waits,
    );
}

fn policy(page: &mut Page, snapshot: &Snapshot, counters: &Counters) {
    let rules: Vec<_> = snapshot
        .rules
        .iter()
        .map(|rule| [("acl", rule.acl.as_str()), ("rule", rule.name.as_str())])
        .collect();
    let rules = || rules.iter().map(|labels| labels.as_slice()).zip(&counters.rules);
    page.counters(
        "sluice_acl_rule_packets_total",
        "Packets that an ACL rule decided.",
        rules().map(|(labels, count)| (labels, count.packets)),
    );
    page.counters(
        "sluice_acl_rule_bytes_total",
        "Bytes that an ACL rule decided.",
        rules().map(|(labels, count)| (labels, count.bytes)),
    );
    let limits = snapshot.limits.iter().zip(&counters.limits);
    let limits: Vec<_> = limits
        .flat_map(|(limit, count)| {
            let labels = |verdict| [("limit", limit.name.as_str()), ("verdict", verdict)];
            [(labels("pass"), count.passed), (labels("drop"), count.dropped)]
        })
        .collect();
    page.counters(
        "sluice_limit_packets_total",
        "Packets that a limit was asked about.",
        limits.iter().map(|(labels, count)| (labels.as_slice(), count.packets)),
    );
    page.counters(
        "sluice_limit_bytes_total",
        "Bytes that a limit was asked about.",
        limits.iter().map(|(labels, count)| (labels.as_slice(), count.bytes)),
    );
    let metered =
        || snapshot.limits.iter().zip(&counters.limits).filter(|(limit, _)| limit.policer.is_some());
    let colors: Vec<_> = metered()
        .flat_map(|(limit, count)| {
            let labels = |color| [("limit", limit.name.as_str()), ("color", color)];
            ["green", "yellow", "red"].map(labels).into_iter().zip(count.colors)
        })
        .collect();
    page.counters(
        "sluice_limit_color_packets_total",
        "Packets that a limit was asked about, by colour.",
        colors.iter().map(|(labels, count)| (labels.as_slice(), count.packets)),
    );
    page.counters(
        "sluice_limit_color_bytes_total",
        "Bytes that a limit was asked about, by colour.",
        colors.iter().map(|(labels, count)| (labels.as_slice(), count.bytes)),
    );
    page.gauges(
        "sluice_limit_meters",
        "Meters that a limit keeps, one for each source, destination or flow.",
        metered().map(|(limit, count)| (vec![("limit", limit.name.as_str())], count.meters as f64)).collect(),
    );
}

fn accounts(page: &mut Page, state: &State, snapshot: &Snapshot) {
    let accounting = state.accounting();
    let (mut octets, mut quotas, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    let accounts: Vec<_> = accounting.each(snapshot).collect();
    let hosts: Vec<String> = accounts
        .iter()
        .map(|(account, _)| account.who.host.map_or(String::new(), |host| host.to_string()))
        .collect();
    for ((account, quota), host) in accounts.iter().zip(&hosts) {
        let labels = || {
            vec![
                ("port", account.who.port.as_str()),
                ("class", account.who.class.as_str()),
                ("host", host.as_str()),
            ]
        };
        octets.push((labels(), account.octets as f64));
        rates.push((labels(), account.p95() as f64));
        quotas.extend(quota.map(|quota| (labels(), quota as f64)));
    }
    page.gauges("sluice_account_octets", "Octets that have left since the account's period began.", octets);
    page.gauges("sluice_account_quota_octets", "Octets that may leave in the account's period.", quotas);
    page.gauges(
        "sluice_account_p95_bits_per_second",
        "The 95th percentile of the month's samples of five minutes.",
        rates,
    );
}

fn devices(page: &mut Page, devices: &[(String, [u64; 3])]) {
    let drops: Vec<_> = devices
        .iter()
        .flat_map(|(name, drops)| {
            let labels = |cause| [("port", name.as_str()), ("cause", cause)];
            ["no_buffer_fits", "receive_ring_full", "fill_ring_empty"].map(labels).into_iter().zip(*drops)
        })
        .collect();
    page.counters(
        "sluice_kernel_dropped_packets_total",
        "Frames that the kernel dropped before Sluice saw them.",
        drops.iter().map(|(labels, count)| (labels.as_slice(), *count)),
    );
}

/// Upper bounds of the histogram of bursts.
const BURSTS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Upper bounds of the histogram of turns, as powers of two.
const TURNS: [usize; 11] = [10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30];

fn workers(page: &mut Page, loops: &[Loop]) {
    let names: Vec<String> = (0..loops.len()).map(|worker| worker.to_string()).collect();
    let labels: Vec<_> = names.iter().map(|name| [("worker", name.as_str())]).collect();
    let each = || labels.iter().map(|labels| labels.as_slice()).zip(loops);
    page.gauges(
        "sluice_worker_up",
        "Whether a worker's loop goes round.",
        each()
            .map(|(labels, one)| (labels.to_vec(), f64::from(u8::from(one.state == Health::Running))))
            .collect(),
    );
    page.counters(
        "sluice_worker_stalls_total",
        "Stalls of a worker's loop.",
        each().map(|(l, one)| (l, one.stalls)),
    );
    page.counters(
        "sluice_worker_loops_total",
        "Turns of a worker's loop.",
        each().map(|(l, one)| (l, one.turns.turns)),
    );
    page.counters(
        "sluice_worker_busy_cycles_total",
        "Cycles of the time-stamp counter in turns with something to do.",
        each().map(|(l, one)| (l, one.turns.busy)),
    );
    page.counters(
        "sluice_worker_idle_cycles_total",
        "Cycles of the time-stamp counter in all other turns, and asleep.",
        each().map(|(l, one)| (l, one.turns.idle)),
    );
    page.counters(
        "sluice_worker_crossed_packets_total",
        "Packets lent to the worker that owns their session.",
        each().map(|(l, one)| (l, one.crossed)),
    );
    let bursts = each().map(|(labels, one)| {
        let bounds = BURSTS.map(|bound| (bound as f64, bound + 1));
        histogram(labels, &one.turns.bursts, &bounds, one.turns.packets)
    });
    let bursts = bursts.collect();
    page.family(
        "sluice_worker_burst_packets",
        "Packets that a port gave at once.",
        MetricType::HISTOGRAM,
        bursts,
    );
    let turns = each().map(|(labels, one)| {
        let bounds = TURNS.map(|power| ((1u64 << power) as f64, pulse::place(1 << power)));
        histogram(labels, &one.turns.lengths, &bounds, one.turns.busy + one.turns.idle - one.turns.asleep)
    });
    let turns = turns.collect();
    page.family(
        "sluice_worker_turn_cycles",
        "Cycles of the time-stamp counter between two polls of a worker's loop, those asleep left out.",
        MetricType::HISTOGRAM,
        turns,
    );
}

/// Of counts by place; each bound comes with how many places lie below it.
fn histogram(labels: Labels<'_>, counts: &[u64], bounds: &[(f64, usize)], sum: u64) -> Metric {
    let below = |places: usize| counts.iter().take(places).sum::<u64>();
    let bucket = |&(bound, places): &(f64, usize)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(below(places));
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(bounds.iter().map(bucket).collect());
    histogram.set_sample_count(below(counts.len()));
    histogram.set_sample_sum(sum as f64);
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests;
