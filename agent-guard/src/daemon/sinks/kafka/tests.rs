//! Against the mock cluster of the client library: brokers that speak the protocol.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _,
    consumer::{BaseConsumer, Consumer as _},
    mocking::MockCluster,
    producer::DefaultProducerContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use super::*;

const TOPIC: &str = "agents";
const PARTITIONS: i32 = 3;
const BROKERS: i32 = 2;

/// How long a line may take here.
const DELIVERY: Duration = Duration::from_secs(2);

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Cluster {
    let cluster = MockCluster::new(BROKERS).unwrap();
    cluster.create_topic(TOPIC, PARTITIONS, BROKERS).unwrap();
    cluster
}

fn kafka(cluster: &Cluster, topic: &str) -> Kafka {
    let brokers = cluster.bootstrap_servers();
    let config = KafkaConfig {
        brokers: brokers.split(',').map(str::to_owned).collect(),
        topic: topic.to_owned(),
        tls: None,
        sasl: None,
    };
    config.check().unwrap();
    let mut client = config.client().unwrap();
    client
        .set("delivery.timeout.ms", DELIVERY.as_millis().to_string())
        .set("topic.metadata.refresh.interval.ms", "500");
    Kafka::with(&config, &client).unwrap()
}

/// Lines of as many agents, in both encodings.
fn lines(numbers: std::ops::Range<usize>) -> Vec<Bytes> {
    let line = |number: usize| {
        let own = format!(r#""agent_guard":{{"agent":{{"id":{}}}}}"#, number % 5);
        match number % 2 {
            0 => format!("{{\"n\":{number},{own}}}\n"),
            _ => format!("{{\"n\":{number},\"unmapped\":{{{own}}}}}\n"),
        }
    };
    numbers.map(|number| Bytes::from(line(number))).collect()
}

/// The numbers that are in the topic, by key, once there are so many different ones, and what has come by then and just
/// after.
fn consumed(cluster: &Cluster, count: usize) -> BTreeMap<String, Vec<u64>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "reader")
        .set("auto.offset.reset", "earliest")
        .set("check.crcs", "true")
        .create()
        .unwrap();
    let mut offsets = rdkafka::TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        offsets.add_partition_offset(TOPIC, partition, rdkafka::Offset::Beginning).unwrap();
    }
    consumer.assign(&offsets).unwrap();
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let due = Instant::now() + Duration::from_secs(30);
    loop {
        let different: BTreeSet<u64> = found.values().flatten().copied().collect();
        let message = consumer.poll(Duration::from_millis(200));
        if different.len() >= count && message.is_none() {
            return found;
        }
        assert!(Instant::now() < due, "only {found:?} came");
        let Some(message) = message else { continue };
        let message = message.unwrap();
        let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
        let value: serde_json::Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
        found.entry(key).or_default().push(value["n"].as_u64().unwrap());
    }
}

/// Delivers all of them, each time from where it failed on.
async fn until_delivered(kafka: &mut Kafka, mut lines: &[Bytes]) {
    let due = Instant::now() + Duration::from_secs(30);
    while let Err(undelivered) = kafka.deliver(lines).await {
        assert_eq!(undelivered.retry, Retry::Later(None));
        assert!(Instant::now() < due, "{}", undelivered.error);
        lines = &lines[undelivered.delivered..];
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// That each agent's lines are there once and in order, and how many they are.
fn in_order(found: &BTreeMap<String, Vec<u64>>) -> usize {
    for (key, numbers) in found {
        assert!(numbers.is_sorted_by(|one, next| one < next), "{key}: {numbers:?}");
    }
    found.values().map(Vec::len).sum()
}

#[tokio::test]
async fn each_line_is_in_the_topic_once_and_those_of_an_agent_are_in_order() {
    let cluster = cluster();
    let mut kafka = kafka(&cluster, TOPIC);
    kafka.deliver(&lines(0..300)).await.unwrap();
    kafka.deliver(&lines(300..500)).await.unwrap();
    let found = consumed(&cluster, 500);
    assert_eq!(in_order(&found), 500);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let keys: Vec<_> = (0..5).map(|agent| format!("{host}/{agent}")).collect();
    assert!(found.keys().eq(&keys), "{:?}", found.keys());
}

#[tokio::test]
async fn lines_wait_for_brokers_that_are_away_and_go_to_them_when_they_are_back() {
    let cluster = cluster();
    let mut kafka = kafka(&cluster, TOPIC);
    kafka.deliver(&lines(0..50)).await.unwrap();
    (1..=BROKERS).for_each(|broker| cluster.broker_down(broker).unwrap());
    let undelivered = kafka.deliver(&lines(50..100)).await.unwrap_err();
    assert_eq!((undelivered.delivered, undelivered.retry), (0, Retry::Later(None)));
    assert!(undelivered.error.contains("timed out"), "{}", undelivered.error);
    (1..=BROKERS).for_each(|broker| cluster.broker_up(broker).unwrap());
    until_delivered(&mut kafka, &lines(50..100)).await;
    // Some may be there already, and come twice.
    let found: BTreeSet<u64> = consumed(&cluster, 100).into_values().flatten().collect();
    assert!(found.into_iter().eq(0..100));
}

#[tokio::test]
async fn what_passes_is_tried_again_by_the_client_and_comes_once() {
    let cluster = cluster();
    let mut kafka = kafka(&cluster, TOPIC);
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        ],
    );
    kafka.deliver(&lines(0..100)).await.unwrap();
    assert_eq!(in_order(&consumed(&cluster, 100)), 100);
}

#[tokio::test]
async fn a_line_that_brokers_never_take_is_given_up_and_no_other() {
    let cluster = cluster();
    let mut kafka = kafka(&cluster, TOPIC);
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE],
    );
    let undelivered = kafka.deliver(&lines(0..1)).await.unwrap_err();
    assert_eq!((undelivered.delivered, undelivered.retry), (0, Retry::Never(1)));
    kafka.deliver(&lines(1..2)).await.unwrap();
    assert_eq!(in_order(&consumed(&cluster, 1)), 1);
}

#[tokio::test]
async fn events_wait_for_a_right_that_is_missing() {
    let cluster = cluster();
    let mut kafka = kafka(&cluster, TOPIC);
    cluster.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
    );
    let undelivered = kafka.deliver(&lines(0..1)).await.unwrap_err();
    assert_eq!((undelivered.delivered, undelivered.retry), (0, Retry::Later(None)));
    assert!(undelivered.error.contains("authorization"), "{}", undelivered.error);
    until_delivered(&mut kafka, &lines(0..1)).await;
    assert_eq!(in_order(&consumed(&cluster, 1)), 1);
}

#[tokio::test]
async fn a_client_that_has_failed_for_good_is_replaced() {
    let cluster = cluster();
    let mut kafka = kafka(&cluster, TOPIC);
    kafka.deliver(&lines(0..10)).await.unwrap();
    let code = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    // SAFETY: the client lives as long as `kafka`, and the reason is a string with its end.
    unsafe {
        let client = kafka.producer.client().native_ptr();
        rdkafka::bindings::rd_kafka_test_fatal_error(client, code, c"for a test".as_ptr());
    }
    assert!(kafka.producer.client().fatal_error().is_some());
    kafka.deliver(&lines(10..20)).await.unwrap();
    assert_eq!(in_order(&consumed(&cluster, 20)), 20);
}

#[test]
fn a_line_that_names_no_agent_has_the_host_as_its_key() {
    assert_eq!(key("h", b"{\"unmapped\":{\"agent_guard\":{\"agent\":{\"id\":7}}}}\n"), "h/7");
    assert_eq!(key("h", b"{\"agent_guard\":{\"agent\":{\"id\":8}}}\n"), "h/8");
    for none in [&b"{}\n"[..], b"torn {", b"", b"{\"agent_guard\":3}"] {
        assert_eq!(key("h", none), "h");
    }
}
