-- Rows for the tables of sentry.sql: n per table, one a minute back from the time at (profile_chunks: one every ten minutes).
-- Nullable columns hold NULLs on purpose: a row hash of the form sum(cityHash64(*)) skips such rows.

INSERT INTO errors_local (project_id,timestamp,event_id,platform,environment,user,tags.key,tags.value,partition,offset,message_timestamp,retention_days,deleted,group_id,primary_hash,received,message,title,level)
SELECT 1+number%7, {at:DateTime}-number*60, reinterpretAsUUID(sipHash128('u1', number)), 'python', if(number%3=0,NULL,'prod'), concat('u',toString(number%50)), ['a','b'],['1',toString(number)], number%4, intDiv(number,4), {at:DateTime}, if(number%10=0,30,90),0, number%30, reinterpretAsUUID(sipHash128('u2', number)), {at:DateTime}, 'm','t','error'
FROM numbers({n:UInt64});

INSERT INTO transactions_local (project_id,event_id,trace_id,span_id,transaction_name,transaction_op,start_ts,finish_ts,finish_ms,duration,platform,user,tags.key,tags.value,partition,offset,message_timestamp,retention_days,deleted)
SELECT 1+number%7,reinterpretAsUUID(sipHash128('u3', number)),reinterpretAsUUID(sipHash128('u4', number)),number,'/x','http',{at:DateTime}-number*60,{at:DateTime}-number*60,1,5,'python','u',['a'],['b'],0,number,{at:DateTime},90,0
FROM numbers({n:UInt64});

INSERT INTO eap_items_1_local (organization_id,project_id,item_type,timestamp,trace_id,item_id,sampling_weight,sampling_factor,retention_days,downsampled_retention_days,indexed_name,attributes_bool,attributes_int,attributes_string_0,attributes_float_0,attributes_array_string,client_sample_rate,server_sample_rate)
SELECT 1,1+number%7,1,{at:DateTime}-number*60,reinterpretAsUUID(sipHash128('u5', number)),toUInt128(number),1,1,90,390,'op',map('k',true),map('i',1),map('s','v'),map('f',1.5),map('as',['x']),1,1
FROM numbers({n:UInt64});

INSERT INTO search_issues_local_v2 (organization_id,project_id,group_id,search_title,primary_hash,occurrence_id,detection_timestamp,platform,receive_timestamp,client_timestamp,user,deleted,message_timestamp,partition,offset,retention_days)
SELECT 1,1,number%9,'x',reinterpretAsUUID(sipHash128('u6', number)),reinterpretAsUUID(sipHash128('u7', number)),{at:DateTime},'python',{at:DateTime},{at:DateTime}-number*60,'u',0,{at:DateTime},0,number,90
FROM numbers({n:UInt64});

INSERT INTO replays_local (replay_id,event_hash,segment_id,trace_ids,project_id,timestamp,replay_start_timestamp,platform,environment,user,urls,click_is_dead,retention_days,partition,offset)
SELECT toUUID('00000000-0000-0000-0000-00000000000'||toString(number%5)),reinterpretAsUUID(sipHash128('u8', number)),if(number%4=0,NULL,number%100),[reinterpretAsUUID(sipHash128('u9', number))],1,{at:DateTime}-number*60,{at:DateTime}-number*60,'js',if(number%2=0,'prod',NULL),'u',['/a','/b'],number%2,90,0,number
FROM numbers({n:UInt64});

INSERT INTO profiles_local
SELECT 1,1,reinterpretAsUUID(sipHash128('u10', number)),reinterpretAsUUID(sipHash128('u11', number)),{at:DateTime}-number*60,'ios',1000,'prod','cocoa',reinterpretAsUUID(sipHash128('u12', number)),'/t',90,0,number
FROM numbers({n:UInt64});

INSERT INTO profile_chunks_local
SELECT 1,reinterpretAsUUID(sipHash128('u13', number)),reinterpretAsUUID(sipHash128('u14', number)),toDateTime64({at:DateTime}, 6)-number*600,toDateTime64({at:DateTime}, 6)-number*600+5,'prod',90,0,number
FROM numbers({n:UInt64});

INSERT INTO group_attributes_local
SELECT 1,number,0,NULL,50,{at:DateTime},0,NULL,0,{at:DateTime},0,number
FROM numbers({n:UInt64});

INSERT INTO outcomes_raw_local
SELECT 1,1+number%3,if(number%5=0,NULL,7),{at:DateTime}-number*60,1,number%4,if(number%2=0,NULL,'sampled'),2,2,reinterpretAsUUID(sipHash128('u15', number)),0
FROM numbers({n:UInt64});

INSERT INTO generic_metric_counters_raw_local (use_case_id,org_id,project_id,metric_id,timestamp,retention_days,tags.key,tags.indexed_value,tags.raw_value,count_value,metric_type,materialization_version,timeseries_id,granularities)
SELECT 'transactions',1,1,9,{at:DateTime}-number*60,90,[1,2],[0,0],['a','b'],1,'counter',3,1,[1,2,3]
FROM numbers({n:UInt64});

INSERT INTO metrics_raw_v2_local
SELECT 'sessions',1,1,1,{at:DateTime}-number*60,[1],[2],'set',[number],0,[],4,90,0,number,1
FROM numbers({n:UInt64});

INSERT INTO functions_raw_local (project_id,transaction_name,timestamp,depth,parent_fingerprint,fingerprint,name,package,is_application,platform,environment,retention_days,durations,profile_id,materialization_version)
SELECT 1,'/t',{at:DateTime}-number,1,2,3,'f','p',1,'python',NULL,90,[1.0,2.0,3.0],reinterpretAsUUID(sipHash128('u16', number)),0
FROM numbers({n:UInt64});

INSERT INTO querylog_local (request_id,request_body,referrer,dataset,projects,organization,timestamp,duration_ms,status,partition,offset,clickhouse_queries.sql,clickhouse_queries.trace_id,clickhouse_queries.duration_ms)
SELECT reinterpretAsUUID(sipHash128('u17', number)),'{}','r','events',[1],1,{at:DateTime},5,'success',0,number,['select 1'],[NULL],[3]
FROM numbers({n:UInt64});

INSERT INTO migrations_local (group,migration_id,timestamp,status)
SELECT 'events',concat('00',toString(number)),{at:DateTime},'completed'
FROM numbers(30);
