-- A database in the shape of a self-hosted Sentry's, for Postgres 14 and newer:
-- 19 of its tables with their foreign and unique keys.

SET client_min_messages = warning;
BEGIN;

-- An extension, because a real Sentry has it: a place to restore to must have it too.
CREATE EXTENSION IF NOT EXISTS citext;

CREATE TABLE django_migrations (
    id bigserial PRIMARY KEY, app varchar(255) NOT NULL, name varchar(255) NOT NULL, applied timestamptz NOT NULL DEFAULT now());

CREATE TABLE sentry_option (
    id bigserial PRIMARY KEY, key varchar(128) NOT NULL UNIQUE, value text NOT NULL, last_updated timestamptz NOT NULL DEFAULT now());

CREATE TABLE sentry_organization (
    id bigserial PRIMARY KEY, name varchar(64) NOT NULL, slug varchar(50) NOT NULL UNIQUE, status int NOT NULL DEFAULT 0,
    date_added timestamptz NOT NULL DEFAULT now(), default_role varchar(32) NOT NULL DEFAULT 'member', flags bigint NOT NULL DEFAULT 0);

CREATE TABLE auth_user (
    id bigserial PRIMARY KEY, password varchar(128) NOT NULL, last_login timestamptz, username citext NOT NULL UNIQUE,
    email varchar(75) NOT NULL, is_superuser boolean NOT NULL DEFAULT false, is_active boolean NOT NULL DEFAULT true,
    date_joined timestamptz NOT NULL DEFAULT now(), session_nonce varchar(12));

CREATE TABLE sentry_organizationmember (
    id bigserial PRIMARY KEY, organization_id bigint NOT NULL REFERENCES sentry_organization ON DELETE CASCADE,
    user_id bigint REFERENCES auth_user ON DELETE CASCADE, email varchar(75), role varchar(32) NOT NULL DEFAULT 'member',
    date_added timestamptz NOT NULL DEFAULT now(), UNIQUE (organization_id, user_id), UNIQUE (organization_id, email));

CREATE TABLE sentry_team (
    id bigserial PRIMARY KEY, organization_id bigint NOT NULL REFERENCES sentry_organization ON DELETE CASCADE,
    slug varchar(50) NOT NULL, name varchar(64) NOT NULL, status int NOT NULL DEFAULT 0, UNIQUE (organization_id, slug));

CREATE TABLE sentry_project (
    id bigserial PRIMARY KEY, slug varchar(100) NOT NULL, name varchar(200) NOT NULL,
    organization_id bigint NOT NULL REFERENCES sentry_organization ON DELETE CASCADE, platform varchar(64),
    status int NOT NULL DEFAULT 0, first_event timestamptz, flags bigint NOT NULL DEFAULT 10,
    date_added timestamptz NOT NULL DEFAULT now(), UNIQUE (organization_id, slug));

CREATE TABLE sentry_projectteam (
    id bigserial PRIMARY KEY, project_id bigint NOT NULL REFERENCES sentry_project ON DELETE CASCADE,
    team_id bigint NOT NULL REFERENCES sentry_team ON DELETE CASCADE, UNIQUE (project_id, team_id));

-- The keys that every client in the world has compiled in.
CREATE TABLE sentry_projectkey (
    id bigserial PRIMARY KEY, project_id bigint NOT NULL REFERENCES sentry_project ON DELETE CASCADE, label varchar(64),
    public_key varchar(32) NOT NULL UNIQUE, secret_key varchar(32) NOT NULL UNIQUE, roles bigint NOT NULL DEFAULT 1,
    status int NOT NULL DEFAULT 0, rate_limit_count int, rate_limit_window int, date_added timestamptz NOT NULL DEFAULT now());

CREATE TABLE sentry_environment (
    id bigserial PRIMARY KEY, organization_id bigint NOT NULL, name varchar(64) NOT NULL,
    date_added timestamptz NOT NULL DEFAULT now(), UNIQUE (organization_id, name));

CREATE TABLE sentry_release (
    id bigserial PRIMARY KEY, organization_id bigint NOT NULL REFERENCES sentry_organization ON DELETE CASCADE,
    version varchar(250) NOT NULL, status int DEFAULT 0, date_added timestamptz NOT NULL DEFAULT now(), date_released timestamptz,
    new_groups int NOT NULL DEFAULT 0, data text NOT NULL DEFAULT '{}', UNIQUE (organization_id, version));

-- Issues; the event tables refer to their ids.
CREATE TABLE sentry_groupedmessage (
    id bigserial PRIMARY KEY, project_id bigint NOT NULL REFERENCES sentry_project ON DELETE CASCADE,
    logger varchar(64) NOT NULL DEFAULT '', level int NOT NULL DEFAULT 40, message text NOT NULL, view varchar(200),
    status int NOT NULL DEFAULT 0, substatus int, times_seen int NOT NULL DEFAULT 1, last_seen timestamptz NOT NULL,
    first_seen timestamptz NOT NULL, first_release_id bigint REFERENCES sentry_release ON DELETE SET NULL,
    data text, short_id bigint, type int NOT NULL DEFAULT 1, priority int, UNIQUE (project_id, short_id));
CREATE INDEX sentry_groupedmessage_project_last_seen ON sentry_groupedmessage (project_id, status, last_seen, id);

CREATE TABLE sentry_grouphash (
    id bigserial PRIMARY KEY, project_id bigint REFERENCES sentry_project ON DELETE CASCADE, hash varchar(32) NOT NULL,
    group_id bigint REFERENCES sentry_groupedmessage ON DELETE CASCADE, state int, UNIQUE (project_id, hash));

CREATE TABLE sentry_rule (
    id bigserial PRIMARY KEY, project_id bigint NOT NULL REFERENCES sentry_project ON DELETE CASCADE,
    environment_id bigint, label varchar(256) NOT NULL, data text NOT NULL DEFAULT '{}', status int NOT NULL DEFAULT 0,
    date_added timestamptz NOT NULL DEFAULT now());

CREATE TABLE sentry_snubaquery (
    id bigserial PRIMARY KEY, type smallint NOT NULL DEFAULT 0, environment_id bigint REFERENCES sentry_environment ON DELETE SET NULL,
    dataset text NOT NULL, query text NOT NULL, aggregate text NOT NULL, time_window int NOT NULL, resolution int NOT NULL,
    date_added timestamptz NOT NULL DEFAULT now());

-- subscription_id begins with a partition of Kafka, which follows from the project.
CREATE TABLE sentry_querysubscription (
    id bigserial PRIMARY KEY, project_id bigint NOT NULL REFERENCES sentry_project ON DELETE CASCADE,
    snuba_query_id bigint NOT NULL REFERENCES sentry_snubaquery ON DELETE CASCADE, type text NOT NULL DEFAULT 'incidents',
    status smallint NOT NULL DEFAULT 0, subscription_id text UNIQUE, date_added timestamptz NOT NULL DEFAULT now(), date_updated timestamptz);

CREATE TABLE sentry_alertrule (
    id bigserial PRIMARY KEY, organization_id bigint REFERENCES sentry_organization ON DELETE CASCADE,
    snuba_query_id bigint UNIQUE REFERENCES sentry_snubaquery ON DELETE SET NULL, name text NOT NULL, status smallint NOT NULL DEFAULT 0,
    threshold_period int NOT NULL DEFAULT 1, date_added timestamptz NOT NULL DEFAULT now(), date_modified timestamptz NOT NULL DEFAULT now());

-- Who may send events: without these rows ingestion is refused.
CREATE TABLE sentry_relay (
    id bigserial PRIMARY KEY, relay_id varchar(64) NOT NULL UNIQUE, public_key varchar(200) NOT NULL,
    first_seen timestamptz, last_seen timestamptz, is_internal boolean);

-- Bodies of old events.
CREATE TABLE nodestore_node (
    id varchar(40) PRIMARY KEY, data text NOT NULL, "timestamp" timestamptz NOT NULL DEFAULT now());

-- CRC-32 as zlib has it: the partition of a project is that of its decimal id.
CREATE FUNCTION sentry_crc32(t text) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE c bigint := 4294967295; b int; i int; j int;
BEGIN
    FOR i IN 0 .. octet_length(t) - 1 LOOP
        b := get_byte(convert_to(t, 'UTF8'), i);
        c := c # b;
        FOR j IN 1 .. 8 LOOP
            IF c & 1 = 1 THEN c := (c >> 1) # 3988292384; ELSE c := c >> 1; END IF;
        END LOOP;
    END LOOP;
    RETURN c # 4294967295;
END $$;

-- Adds n issues and, in proportion, what they hang on. Ids and texts follow from n
-- and from the highest ids that are there; times are relative to now.
CREATE FUNCTION sentry_fill(n int, partitions int DEFAULT 1) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    o0 bigint := coalesce((SELECT max(id) FROM sentry_organization), 0);
    p0 bigint := coalesce((SELECT max(id) FROM sentry_project), 0);
    g0 bigint := coalesce((SELECT max(id) FROM sentry_groupedmessage), 0);
    q0 bigint := coalesce((SELECT max(id) FROM sentry_snubaquery), 0);
    no int := greatest(1, n / 1000); np int := greatest(2, n / 50); nq int := greatest(1, n / 20);
BEGIN
    INSERT INTO sentry_organization (name, slug) SELECT 'Org ' || i, 'org-' || i FROM generate_series(o0 + 1, o0 + no) i;
    INSERT INTO auth_user (password, username, email, is_superuser, session_nonce)
        SELECT 'pbkdf2_sha256$1000000$' || md5('salt' || i) || '$' || md5('pw' || i), 'User' || i || '@example.com', 'user' || i || '@example.com', i = 1, left(md5('n' || i), 12)
        FROM generate_series(o0 * 10 + 1, (o0 + no) * 10) i ON CONFLICT DO NOTHING;
    INSERT INTO sentry_organizationmember (organization_id, user_id, role)
        SELECT o0 + 1 + (u.id % no), u.id, CASE WHEN u.id % 10 = 1 THEN 'owner' ELSE 'member' END FROM auth_user u WHERE u.id > o0 * 10;
    INSERT INTO sentry_team (organization_id, slug, name) SELECT i, 'team-' || i, 'Team ' || i FROM generate_series(o0 + 1, o0 + no) i;
    INSERT INTO sentry_environment (organization_id, name) SELECT i, e FROM generate_series(o0 + 1, o0 + no) i, unnest(ARRAY['', 'production', 'staging']) e;
    INSERT INTO sentry_project (slug, name, organization_id, platform, first_event)
        SELECT 'project-' || i, 'Project ' || i, o0 + 1 + (i % no), (ARRAY['python', 'javascript', 'go', 'cocoa'])[1 + i % 4], now() - interval '30 days'
        FROM generate_series(p0 + 1, p0 + np) i;
    INSERT INTO sentry_projectteam (project_id, team_id)
        SELECT p.id, t.id FROM sentry_project p JOIN sentry_team t USING (organization_id) WHERE p.id > p0;
    INSERT INTO sentry_projectkey (project_id, label, public_key, secret_key)
        SELECT p.id, 'Default', md5('public' || p.id), md5('secret' || p.id) FROM sentry_project p WHERE p.id > p0;
    INSERT INTO sentry_release (organization_id, version)
        SELECT i, 'app@1.' || r FROM generate_series(o0 + 1, o0 + no) i, generate_series(1, 20) r;
    INSERT INTO sentry_groupedmessage (id, project_id, message, view, status, times_seen, first_seen, last_seen, short_id, first_release_id, data)
        SELECT nextval('sentry_groupedmessage_id_seq'), p0 + 1 + (i % np), 'ValueError: bad thing number ' || i, 'app.views.v' || i % 100, i % 3, 1 + i % 500,
               now() - interval '30 days' + i * interval '1 second', now() - i * interval '1 second', i, f.release + i % 20,
               json_build_object('type', 'error', 'metadata', json_build_object('value', repeat(md5(i::text), 4)))::text
        FROM generate_series(g0 + 1, g0 + n) i
        JOIN (SELECT p.id, min(r.id) AS release FROM sentry_project p JOIN sentry_release r USING (organization_id) WHERE p.id > p0 GROUP BY p.id) f
          ON f.id = p0 + 1 + (i % np);
    INSERT INTO sentry_grouphash (project_id, hash, group_id) SELECT g.project_id, md5('hash' || g.id), g.id FROM sentry_groupedmessage g WHERE g.id > g0;
    INSERT INTO sentry_rule (project_id, label, data) SELECT p.id, 'Send a notification for new issues', '{"match":"all"}' FROM sentry_project p WHERE p.id > p0;
    INSERT INTO sentry_snubaquery (id, dataset, query, aggregate, time_window, resolution)
        SELECT nextval('sentry_snubaquery_id_seq'), (ARRAY['events', 'transactions', 'events_analytics_platform'])[1 + i % 3], '', 'count()', 60, 60 FROM generate_series(1, nq) i;
    INSERT INTO sentry_querysubscription (project_id, snuba_query_id, subscription_id)
        SELECT p0 + 1 + (s.id % np), s.id, sentry_crc32((p0 + 1 + (s.id % np))::text) % partitions || '/' || md5('subscription' || s.id) FROM sentry_snubaquery s WHERE s.id > q0;
    INSERT INTO sentry_alertrule (organization_id, snuba_query_id, name)
        SELECT p.organization_id, q.snuba_query_id, 'Alert ' || q.snuba_query_id FROM sentry_querysubscription q JOIN sentry_project p ON p.id = q.project_id WHERE q.snuba_query_id > q0;
    INSERT INTO nodestore_node (id, data) SELECT md5('node' || i), repeat(encode(sha256(i::text::bytea), 'base64'), 8) FROM generate_series(g0 + 1, g0 + n / 10) i ON CONFLICT DO NOTHING;
END $$;

-- Rows and a hash that does not depend on their order, for each table.
CREATE FUNCTION sentry_census() RETURNS TABLE (tab text, n bigint, hash text) LANGUAGE plpgsql AS $$
DECLARE t text;
BEGIN
    FOR t IN SELECT c.relname FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace ORDER BY 1 LOOP
        RETURN QUERY EXECUTE format('SELECT %L, count(*), to_hex(coalesce(bit_xor(hashtextextended(x::text, 0)), 0)) FROM %I x', t, t);
    END LOOP;
END $$;

INSERT INTO django_migrations (app, name) SELECT 'sentry', lpad(i::text, 4, '0') || '_step' FROM generate_series(1, 40) i;
INSERT INTO sentry_option (key, value) VALUES
    ('system.url-prefix', '"https://sentry.example.com"'), ('system.admin-email', '"ops@example.com"'), ('auth.allow-registration', 'false'), ('sentry:install-id', '"0000000000000000000000000000000000000000"'), ('sentry:latest_version', '"26.8.0"');
INSERT INTO sentry_relay (relay_id, public_key, first_seen, last_seen, is_internal) VALUES
    ('11111111-2222-3333-4444-555555555555', 'public-key-of-the-internal-relay', now() - interval '90 days', now(), true),
    ('66666666-7777-8888-9999-000000000000', 'public-key-of-an-edge-relay', now() - interval '10 days', now(), false);
COMMIT;
