-- Tables and views in the shape of a self-hosted Sentry's, for ClickHouse 23.8
-- and newer: its engines, partitions, keys, lives and types, with the columns
-- that make a backup or a restore difficult. Every statement ends with a
-- semicolon at the end of a line, and no text holds one.

-- Errors: written again by a replay without harm, each row with the place in Kafka that it came from.
CREATE TABLE errors_local
(
    project_id UInt64,
    timestamp DateTime,
    event_id UUID CODEC(NONE),
    platform LowCardinality(String),
    environment LowCardinality(Nullable(String)),
    user String DEFAULT '',
    user_hash UInt64 MATERIALIZED cityHash64(user),
    tags Nested(key String, value String),
    partition UInt16,
    offset UInt64 CODEC(DoubleDelta, LZ4),
    message_timestamp DateTime,
    retention_days UInt16,
    deleted UInt8,
    group_id UInt64,
    primary_hash UUID,
    received DateTime,
    message String,
    title String,
    level LowCardinality(Nullable(String))
)
ENGINE = ReplacingMergeTree(deleted)
PARTITION BY (retention_days, toMonday(timestamp))
ORDER BY (project_id, toStartOfDay(timestamp), primary_hash, cityHash64(event_id))
SAMPLE BY cityHash64(event_id)
TTL timestamp + toIntervalDay(retention_days)
SETTINGS index_granularity = 8192;

ALTER TABLE errors_local ADD COLUMN _tags_hash_map Array(UInt64) MATERIALIZED arrayMap((k, v) -> cityHash64(concat(k, '=', v)), tags.key, tags.value) AFTER tags.value;

-- Transactions: a timestamp that the server computes, a nullable id.
CREATE TABLE transactions_local
(
    project_id UInt64,
    event_id UUID,
    trace_id Nullable(UUID),
    span_id UInt64,
    transaction_name LowCardinality(String),
    transaction_hash UInt64 MATERIALIZED cityHash64(transaction_name),
    transaction_op LowCardinality(String),
    transaction_status UInt8 DEFAULT 2,
    start_ts DateTime,
    finish_ts DateTime,
    finish_ms UInt16,
    duration UInt32,
    platform LowCardinality(String),
    environment LowCardinality(Nullable(String)),
    user String DEFAULT '',
    user_hash UInt64 MATERIALIZED cityHash64(user),
    tags Nested(key String, value String),
    partition UInt16,
    offset UInt64,
    message_timestamp DateTime,
    retention_days UInt16,
    deleted UInt8,
    timestamp DateTime MATERIALIZED finish_ts
)
ENGINE = ReplacingMergeTree(deleted)
PARTITION BY (retention_days, toMonday(finish_ts))
ORDER BY (project_id, toStartOfDay(finish_ts), transaction_name, cityHash64(span_id))
SAMPLE BY cityHash64(span_id)
TTL finish_ts + toIntervalDay(retention_days)
SETTINGS index_granularity = 8192;

-- Spans and logs: maps of attributes, 128-bit ids, and no place in Kafka to tell how far they reach.
CREATE TABLE eap_items_1_local
(
    organization_id UInt64,
    project_id UInt64,
    item_type UInt8,
    timestamp DateTime CODEC(DoubleDelta, ZSTD(1)),
    trace_id UUID,
    session_id UUID,
    item_id UInt128,
    sampling_weight UInt64 CODEC(ZSTD(1)),
    sampling_factor Float64 CODEC(ZSTD(1)),
    retention_days UInt16 CODEC(T64, ZSTD(1)),
    downsampled_retention_days UInt16 CODEC(ZSTD(1)),
    indexed_name String CODEC(ZSTD(1)),
    attributes_bool Map(String, Bool),
    attributes_int Map(String, Int64),
    attributes_string_0 Map(String, String) CODEC(ZSTD(1)),
    attributes_float_0 Map(String, Float64) CODEC(ZSTD(1)),
    attributes_array_string Map(String, Array(String)) CODEC(ZSTD(1)),
    client_sample_rate Float64 CODEC(ZSTD(1)),
    server_sample_rate Float64 CODEC(ZSTD(1)),
    INDEX bf_trace_id trace_id TYPE bloom_filter GRANULARITY 1,
    INDEX bf_indexed_name indexed_name TYPE bloom_filter GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY (retention_days, toMonday(timestamp))
PRIMARY KEY (organization_id, project_id, item_type, timestamp)
ORDER BY (organization_id, project_id, item_type, timestamp, trace_id, item_id)
TTL timestamp + toIntervalDay(retention_days)
SETTINGS index_granularity = 8192;

-- One span in eight, kept for longer: its partitions do not line up with those of its source.
CREATE TABLE eap_items_1_downsample_8_local
(
    organization_id UInt64,
    project_id UInt64,
    item_type UInt8,
    timestamp DateTime CODEC(DoubleDelta, ZSTD(1)),
    trace_id UUID,
    session_id UUID,
    item_id UInt128,
    sampling_weight UInt64 CODEC(ZSTD(1)),
    sampling_factor Float64 CODEC(ZSTD(1)),
    retention_days UInt16 CODEC(T64, ZSTD(1)),
    indexed_name String CODEC(ZSTD(1)),
    attributes_bool Map(String, Bool),
    attributes_int Map(String, Int64),
    attributes_string_0 Map(String, String) CODEC(ZSTD(1)),
    attributes_float_0 Map(String, Float64) CODEC(ZSTD(1)),
    attributes_array_string Map(String, Array(String)) CODEC(ZSTD(1)),
    client_sample_rate Float64 CODEC(ZSTD(1)),
    server_sample_rate Float64 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY (retention_days, toMonday(timestamp))
PRIMARY KEY (organization_id, project_id, item_type, timestamp)
ORDER BY (organization_id, project_id, item_type, timestamp, trace_id, item_id)
TTL timestamp + toIntervalDay(retention_days)
SETTINGS index_granularity = 8192;

CREATE MATERIALIZED VIEW eap_items_1_downsample_8_mv_9 TO eap_items_1_downsample_8_local AS
SELECT organization_id, project_id, item_type, timestamp, trace_id, session_id, item_id,
       sampling_weight * 8 AS sampling_weight, sampling_factor / 8 AS sampling_factor,
       downsampled_retention_days AS retention_days, indexed_name,
       attributes_bool, attributes_int, attributes_string_0, attributes_float_0, attributes_array_string,
       client_sample_rate / 8 AS client_sample_rate, server_sample_rate / 8 AS server_sample_rate
FROM eap_items_1_local
WHERE (cityHash64(item_id) % 8) = 0;

-- A counter of attributes seen together: rows inserted twice count twice.
CREATE TABLE eap_item_co_occurring_attrs_2_local
(
    organization_id UInt64,
    project_id UInt64,
    item_type UInt8,
    date Date CODEC(DoubleDelta, ZSTD(1)),
    retention_days UInt16,
    attributes_string Array(String),
    attributes_float Array(String),
    attribute_keys_hash Array(UInt64) MATERIALIZED arrayMap(k -> cityHash64(k), arrayDistinct(arrayConcat(attributes_string, attributes_float))),
    key_hash UInt64 MATERIALIZED cityHash64(arraySort(arrayDistinct(arrayConcat(attributes_string, attributes_float)))),
    count UInt64,
    last_seen SimpleAggregateFunction(max, DateTime),
    INDEX bf_attribute_keys_hash attribute_keys_hash TYPE bloom_filter GRANULARITY 1
)
ENGINE = SummingMergeTree
PARTITION BY (retention_days, toMonday(date))
PRIMARY KEY (organization_id, project_id, date, item_type, key_hash)
ORDER BY (organization_id, project_id, date, item_type, key_hash, retention_days)
TTL date + toIntervalDay(retention_days);

CREATE MATERIALIZED VIEW eap_item_co_occurring_attrs_3_mv TO eap_item_co_occurring_attrs_2_local AS
SELECT organization_id, project_id, item_type, toMonday(timestamp) AS date, retention_days,
       mapKeys(attributes_string_0) AS attributes_string, mapKeys(attributes_float_0) AS attributes_float,
       toUInt64(1) AS count, timestamp AS last_seen
FROM eap_items_1_local;

-- Issues found by other means than errors.
CREATE TABLE search_issues_local_v2
(
    organization_id UInt64,
    project_id UInt64,
    group_id UInt64,
    search_title String,
    primary_hash UUID,
    fingerprint Array(String),
    occurrence_id UUID,
    occurrence_type_id UInt16,
    detection_timestamp DateTime,
    event_id Nullable(UUID),
    platform LowCardinality(String),
    receive_timestamp DateTime,
    client_timestamp DateTime,
    tags Nested(key String, value String),
    user Nullable(String),
    user_hash Nullable(UInt64) MATERIALIZED cityHash64(user),
    deleted UInt8,
    message_timestamp DateTime,
    partition UInt16,
    offset UInt64,
    retention_days UInt16,
    INDEX bf_group_id group_id TYPE bloom_filter GRANULARITY 1
)
ENGINE = ReplacingMergeTree(deleted)
PARTITION BY (retention_days, toMonday(client_timestamp))
ORDER BY (project_id, toStartOfDay(client_timestamp), primary_hash, cityHash64(occurrence_id))
SAMPLE BY cityHash64(occurrence_id)
TTL client_timestamp + toIntervalDay(retention_days)
SETTINGS index_granularity = 8192;

-- Session replays, and what a view sums up of them for each hour.
CREATE TABLE replays_local
(
    replay_id UUID,
    event_hash UUID,
    segment_id Nullable(UInt16),
    trace_ids Array(UUID),
    _trace_ids_hashed Array(UInt64) MATERIALIZED arrayMap(t -> cityHash64(t), trace_ids),
    project_id UInt64,
    timestamp DateTime,
    replay_start_timestamp Nullable(DateTime),
    platform LowCardinality(String),
    environment LowCardinality(Nullable(String)),
    user String,
    urls Array(String),
    click_is_dead UInt8,
    error_id UUID,
    tags Nested(key String, value String),
    retention_days UInt16,
    partition UInt16,
    offset UInt64,
    INDEX bf_trace_ids_hashed _trace_ids_hashed TYPE bloom_filter GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY (retention_days, toMonday(timestamp))
ORDER BY (project_id, toStartOfDay(timestamp), cityHash64(replay_id), event_hash)
TTL timestamp + toIntervalDay(retention_days)
SETTINGS index_granularity = 8192;

CREATE TABLE replays_aggregated_local
(
    project_id UInt64,
    to_hour_timestamp DateTime,
    replay_id UUID,
    retention_days UInt16,
    count_dead_clicks AggregateFunction(sum, UInt64),
    count_errors AggregateFunction(sum, UInt64),
    count_segments AggregateFunction(count, Nullable(UInt64)),
    count_urls AggregateFunction(sum, UInt64),
    environment AggregateFunction(anyIf, Nullable(String), Nullable(UInt8)),
    finished_at AggregateFunction(maxIf, DateTime, UInt8),
    started_at AggregateFunction(min, Nullable(DateTime)),
    user AggregateFunction(anyIf, String, UInt8),
    min_segment_id AggregateFunction(min, Nullable(UInt16))
)
ENGINE = AggregatingMergeTree
PARTITION BY (retention_days, toMonday(to_hour_timestamp))
ORDER BY (project_id, to_hour_timestamp, replay_id, retention_days)
TTL to_hour_timestamp + toIntervalDay(retention_days)
SETTINGS index_granularity = 8192;

CREATE MATERIALIZED VIEW replays_aggregation_mv TO replays_aggregated_local AS
SELECT project_id, toStartOfHour(timestamp) AS to_hour_timestamp, replay_id, retention_days,
       sumState(toUInt64(click_is_dead)) AS count_dead_clicks,
       sumState(toUInt64(error_id != toUUID('00000000-0000-0000-0000-000000000000'))) AS count_errors,
       countState(CAST(segment_id, 'Nullable(UInt64)')) AS count_segments,
       sumState(length(urls)) AS count_urls,
       anyIfState(CAST(environment, 'Nullable(String)'), CAST(environment != '', 'Nullable(UInt8)')) AS environment,
       maxIfState(timestamp, segment_id IS NOT NULL) AS finished_at,
       minState(replay_start_timestamp) AS started_at,
       anyIfState(user, user != '') AS user,
       minState(segment_id) AS min_segment_id
FROM replays_local
GROUP BY project_id, to_hour_timestamp, replay_id, retention_days;

-- Profiles of transactions.
CREATE TABLE profiles_local
(
    organization_id UInt64,
    project_id UInt64,
    transaction_id UUID,
    profile_id UUID,
    received DateTime,
    device_os_name LowCardinality(String),
    duration_ns UInt64,
    environment LowCardinality(Nullable(String)),
    platform LowCardinality(String),
    trace_id UUID,
    transaction_name LowCardinality(String),
    retention_days UInt16,
    partition UInt16,
    offset UInt64
)
ENGINE = ReplacingMergeTree
PARTITION BY (retention_days, toMonday(received))
ORDER BY (organization_id, project_id, toStartOfDay(received), cityHash64(profile_id))
SAMPLE BY cityHash64(profile_id)
TTL received + toIntervalDay(retention_days)
SETTINGS index_granularity = 8192;

-- Continuous profiling: a partition for every day, the most of all tables.
CREATE TABLE profile_chunks_local
(
    project_id UInt64,
    profiler_id UUID,
    chunk_id UUID,
    start_timestamp DateTime64(6) CODEC(DoubleDelta),
    end_timestamp DateTime64(6) CODEC(DoubleDelta),
    environment LowCardinality(Nullable(String)),
    retention_days UInt16,
    partition UInt16,
    offset UInt64
)
ENGINE = ReplacingMergeTree
PARTITION BY (retention_days, toStartOfDay(start_timestamp))
ORDER BY (project_id, profiler_id, start_timestamp, cityHash64(chunk_id))
SAMPLE BY cityHash64(chunk_id)
TTL toDateTime(end_timestamp) + toIntervalDay(retention_days)
SETTINGS index_granularity = 8192;

-- State of issues: no partitions, no end of life.
CREATE TABLE group_attributes_local
(
    project_id UInt64,
    group_id UInt64,
    group_status UInt8,
    group_substatus Nullable(UInt8),
    group_priority Nullable(UInt8),
    group_first_seen DateTime,
    group_num_comments UInt64,
    assignee_user_id Nullable(UInt64),
    deleted UInt8,
    message_timestamp DateTime,
    partition UInt16,
    offset UInt64
)
ENGINE = ReplacingMergeTree(deleted)
ORDER BY (project_id, group_id)
SETTINGS index_granularity = 8192;

-- What became of each event. Two views add up hours and days; a column ends before its row.
CREATE TABLE outcomes_raw_local
(
    org_id UInt64,
    project_id UInt64,
    key_id Nullable(UInt64),
    timestamp DateTime,
    category UInt8,
    outcome UInt8,
    reason LowCardinality(Nullable(String)),
    quantity UInt32,
    quantity64 UInt64,
    event_id Nullable(UUID) CODEC(LZ4HC(0)) TTL timestamp + toIntervalDay(30),
    size UInt32
)
ENGINE = MergeTree
PARTITION BY toMonday(timestamp)
ORDER BY (org_id, project_id, timestamp)
TTL timestamp + toIntervalDay(30)
SETTINGS index_granularity = 16384;

CREATE TABLE outcomes_hourly_local
(
    org_id UInt64,
    project_id UInt64,
    key_id UInt64,
    timestamp DateTime,
    category UInt8,
    outcome UInt8,
    reason LowCardinality(String),
    quantity UInt64,
    times_seen UInt64,
    bytes_received UInt64
)
ENGINE = SummingMergeTree
PARTITION BY toMonday(timestamp)
PRIMARY KEY (org_id, project_id, key_id, outcome, reason, timestamp)
ORDER BY (org_id, project_id, key_id, outcome, reason, timestamp, category)
TTL timestamp + toIntervalDay(90)
SETTINGS index_granularity = 256;

CREATE MATERIALIZED VIEW outcomes_mv_hourly_local_v2 TO outcomes_hourly_local AS
SELECT org_id, project_id, ifNull(key_id, 0) AS key_id, toStartOfHour(timestamp) AS timestamp, category, outcome,
       ifNull(reason, 'none') AS reason, sum(quantity64) AS quantity, count() AS times_seen
FROM outcomes_raw_local
GROUP BY org_id, project_id, key_id, timestamp, category, outcome, reason;

CREATE TABLE outcomes_daily_local_v2
(
    org_id UInt64,
    project_id UInt64,
    key_id UInt64,
    timestamp DateTime,
    outcome UInt8,
    reason LowCardinality(String),
    category UInt8,
    quantity UInt64,
    times_seen UInt64
)
ENGINE = SummingMergeTree
PARTITION BY toStartOfMonth(timestamp)
ORDER BY (org_id, project_id, key_id, outcome, reason, timestamp, category)
TTL timestamp + toIntervalMonth(13);

CREATE MATERIALIZED VIEW outcomes_mv_daily_local_v3 TO outcomes_daily_local_v2 AS
SELECT org_id, project_id, ifNull(key_id, 0) AS key_id, toStartOfDay(timestamp) AS timestamp, outcome,
       ifNull(reason, 'none') AS reason, category, sum(quantity64) AS quantity, count() AS times_seen
FROM outcomes_raw_local
GROUP BY org_id, project_id, key_id, timestamp, outcome, reason, category;

-- Counters. Columns for a place in Kafka exist and stay 0.
CREATE TABLE generic_metric_counters_raw_local
(
    use_case_id LowCardinality(String),
    org_id UInt64,
    project_id UInt64,
    metric_id UInt64,
    timestamp DateTime,
    retention_days UInt16,
    tags Nested(key UInt64, indexed_value UInt64, raw_value String),
    count_value Float64,
    metric_type LowCardinality(String),
    materialization_version UInt8,
    timeseries_id UInt32,
    partition UInt16,
    offset UInt64,
    granularities Array(UInt8),
    decasecond_retention_days UInt8 DEFAULT 7,
    min_retention_days UInt8 DEFAULT 30,
    hr_retention_days UInt8 DEFAULT retention_days,
    day_retention_days UInt8 DEFAULT retention_days,
    sampling_weight UInt64 DEFAULT 1 CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toStartOfInterval(timestamp, toIntervalDay(3))
ORDER BY (use_case_id, org_id, project_id, metric_id, timestamp)
TTL timestamp + toIntervalDay(7);

CREATE TABLE generic_metric_counters_aggregated_local
(
    org_id UInt64,
    project_id UInt64,
    metric_id UInt64,
    granularity UInt8,
    timestamp DateTime CODEC(DoubleDelta),
    retention_days UInt16,
    tags Nested(key UInt64, indexed_value UInt64, raw_value String),
    value AggregateFunction(sum, Float64),
    value_weighted AggregateFunction(sum, Float64) CODEC(ZSTD(1)),
    use_case_id LowCardinality(String)
)
ENGINE = AggregatingMergeTree
PARTITION BY (retention_days, toMonday(timestamp))
PRIMARY KEY (org_id, project_id, metric_id, granularity, timestamp)
ORDER BY (org_id, project_id, metric_id, granularity, timestamp, tags.key, tags.indexed_value, tags.raw_value, retention_days, use_case_id)
TTL timestamp + toIntervalDay(retention_days)
SETTINGS index_granularity = 2048;

ALTER TABLE generic_metric_counters_aggregated_local ADD COLUMN _indexed_tags_hash Array(UInt64) MATERIALIZED arrayMap((k, v) -> cityHash64(concat(toString(k), '=', toString(v))), tags.key, tags.indexed_value);

ALTER TABLE generic_metric_counters_aggregated_local ADD INDEX bf_indexed_tags_hash _indexed_tags_hash TYPE bloom_filter GRANULARITY 1;

CREATE MATERIALIZED VIEW generic_metric_counters_aggregation_mv_v3 TO generic_metric_counters_aggregated_local AS
SELECT use_case_id, org_id, project_id, metric_id, granularity, tags.key, tags.indexed_value, tags.raw_value,
       toDateTime(step * intDiv(toUnixTimestamp(ts), step)) AS timestamp,
       least(rd, multiIf(granularity = 0, decasecond_retention_days, granularity = 1, min_retention_days, granularity = 2, hr_retention_days, day_retention_days)) AS retention_days,
       sumState(count_value) AS value, sumState(count_value * sampling_weight) AS value_weighted
FROM
(
    SELECT *, timestamp AS ts, retention_days AS rd, arrayJoin(granularities) AS granularity,
           multiIf(granularity = 0, 10, granularity = 1, 60, granularity = 2, 3600, 86400) AS step
    FROM generic_metric_counters_raw_local
    WHERE materialization_version = 3 AND metric_type = 'counter'
)
GROUP BY use_case_id, org_id, project_id, metric_id, granularity, tags.key, tags.indexed_value, tags.raw_value, timestamp, retention_days;

-- Release health.
CREATE TABLE metrics_raw_v2_local
(
    use_case_id LowCardinality(String),
    org_id UInt64,
    project_id UInt64,
    metric_id UInt64,
    timestamp DateTime,
    tags Nested(key UInt64, value UInt64),
    metric_type LowCardinality(String),
    set_values Array(UInt64),
    count_value Float64,
    distribution_values Array(Float64),
    materialization_version UInt8,
    retention_days UInt16,
    partition UInt16,
    offset UInt64,
    timeseries_id UInt32
)
ENGINE = MergeTree
PARTITION BY toStartOfInterval(timestamp, toIntervalDay(3))
ORDER BY (use_case_id, metric_type, org_id, project_id, metric_id, timestamp)
TTL timestamp + toIntervalDay(7);

-- Functions of profiles: raw rows live for a day, what a view makes of them for months.
CREATE TABLE functions_raw_local
(
    project_id UInt64,
    transaction_name String,
    timestamp DateTime,
    depth UInt32,
    parent_fingerprint UInt64,
    fingerprint UInt64,
    name String,
    package String,
    is_application UInt8,
    platform LowCardinality(String),
    environment LowCardinality(Nullable(String)),
    release LowCardinality(Nullable(String)),
    retention_days UInt16,
    durations Array(Float64),
    profile_id UUID,
    materialization_version UInt8,
    thread_id String,
    profiling_type LowCardinality(String) DEFAULT 'transaction'
)
ENGINE = MergeTree
PARTITION BY toStartOfInterval(timestamp, toIntervalHour(12))
ORDER BY (project_id, transaction_name, timestamp)
TTL timestamp + toIntervalDay(1);

-- Nullable columns in the sorting key: a table like this needs a setting to be made again.
CREATE TABLE functions_mv_local
(
    project_id UInt64,
    transaction_name String,
    timestamp DateTime,
    depth UInt32,
    parent_fingerprint UInt64,
    fingerprint UInt64,
    name String,
    package String,
    is_application UInt8,
    platform LowCardinality(String),
    environment LowCardinality(Nullable(String)),
    release LowCardinality(Nullable(String)),
    retention_days UInt16,
    count AggregateFunction(count, Float64),
    percentiles AggregateFunction(quantiles(0.5, 0.75, 0.9, 0.95, 0.99), Float64),
    sum AggregateFunction(sum, Float64),
    worst AggregateFunction(argMax, UUID, Float64),
    examples AggregateFunction(groupUniqArray(5), UUID)
)
ENGINE = AggregatingMergeTree
PARTITION BY (retention_days, toMonday(timestamp))
PRIMARY KEY (project_id, transaction_name, timestamp, depth, parent_fingerprint, fingerprint)
ORDER BY (project_id, transaction_name, timestamp, depth, parent_fingerprint, fingerprint, name, package, is_application, platform, environment, release, retention_days)
TTL timestamp + toIntervalDay(retention_days)
SETTINGS index_granularity = 2048, allow_nullable_key = 1;

CREATE MATERIALIZED VIEW functions_v2_local TO functions_mv_local AS
SELECT project_id, transaction_name, toStartOfHour(ts) AS timestamp, depth, parent_fingerprint, fingerprint, name, package,
       is_application, platform, environment, release, retention_days,
       countState(duration) AS count, quantilesState(0.5, 0.75, 0.9, 0.95, 0.99)(duration) AS percentiles,
       sumState(duration) AS sum, argMaxState(profile_id, duration) AS worst, groupUniqArrayState(5)(profile_id) AS examples
FROM (SELECT *, timestamp AS ts, arrayJoin(durations) AS duration FROM functions_raw_local WHERE materialization_version = 0)
GROUP BY project_id, transaction_name, timestamp, depth, parent_fingerprint, fingerprint, name, package,
         is_application, platform, environment, release, retention_days;

-- Queries of users: nested columns with NULLs in them.
CREATE TABLE querylog_local
(
    request_id UUID,
    request_body String,
    referrer LowCardinality(String),
    dataset LowCardinality(String),
    projects Array(UInt64),
    organization Nullable(UInt64),
    timestamp DateTime CODEC(T64, ZSTD(1)),
    duration_ms UInt32,
    status LowCardinality(String),
    partition UInt16,
    offset UInt64,
    clickhouse_queries Nested(sql String, trace_id Nullable(UUID), duration_ms UInt32)
)
ENGINE = MergeTree
PARTITION BY toMonday(timestamp)
ORDER BY (dataset, referrer, toStartOfDay(timestamp), request_id);

-- No rows of its own: reads two others by a pattern.
CREATE TABLE discover_local
(
    event_id UUID,
    project_id UInt64,
    timestamp DateTime,
    platform LowCardinality(String),
    environment LowCardinality(Nullable(String)),
    user String,
    user_hash UInt64,
    tags Nested(key String, value String),
    deleted UInt8
)
ENGINE = Merge(currentDatabase(), '^errors_local$|^transactions_local$');

-- Which migrations have run.
CREATE TABLE migrations_local
(
    group String,
    migration_id String,
    timestamp DateTime,
    status Enum('completed' = 0, 'in_progress' = 1, 'not_started' = 2),
    version UInt64 DEFAULT 1
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (group, migration_id);
