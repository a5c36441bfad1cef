package clickhouse

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/clickhouse"
)

// dataless are engines that only point at data elsewhere, or make it from data
// elsewhere. Whatever is not here and not in the MergeTree family may hold rows
// of its own, and they are not taken.
var dataless = []string{
	"View", "MaterializedView", "LiveView", "WindowView", "Distributed", "Merge", "Kafka", "RabbitMQ", "NATS", "S3Queue", "AzureQueue", "FileLog",
	"Dictionary", "Null", "MySQL", "PostgreSQL", "MongoDB", "Redis", "SQLite", "ODBC", "JDBC", "URL", "S3", "HDFS", "File", "GenerateRandom", "Executable", "ExecutablePool",
}

// namesMax bounds how many tables one note lists.
const namesMax = 20

// notes says, per engine, what a restore will not bring back.
func notes(tables []table) []string {
	byEngine := map[string][]string{}
	var inner []string
	for _, t := range tables {
		switch {
		case clickhouse.Inner(t.Name):
			inner = append(inner, t.Database+"."+t.Name)
		case !t.holdsData():
			byEngine[t.Engine] = append(byEngine[t.Engine], t.Database+"."+t.Name)
		}
	}
	var list []string
	for _, engine := range slices.Sorted(maps.Keys(byEngine)) {
		names := byEngine[engine]
		text := fmt.Sprint(strings.Join(names[:min(len(names), namesMax)], ", "))
		if more := len(names) - namesMax; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		switch {
		case engine == "Buffer":
			list = append(list, fmt.Sprintf("Buffer: only the definition is kept; rows that were in memory and not yet flushed are not in the set: %s", text))
		case slices.Contains(dataless, engine):
			list = append(list, fmt.Sprintf("%s: only the definition is kept, and a restore does not create it: %s", engine, text))
		default:
			list = append(list, fmt.Sprintf("%s: may hold rows of its own, which are NOT taken; only the definition is kept: %s", engine, text))
		}
	}
	if n := len(inner); n > 0 {
		list = append(list, fmt.Sprintf("%d inner tables of materialized views hold rows, which are NOT taken; give the views a table of their own (TO …): %s", n, strings.Join(inner[:min(n, namesMax)], ", ")))
	}
	var replicated []string
	for _, t := range tables {
		if t.holdsData() && (strings.HasPrefix(t.Engine, "Replicated") || strings.HasPrefix(t.Engine, "Shared")) {
			replicated = append(replicated, t.Database+"."+t.Name)
		}
	}
	if n := len(replicated); n > 0 {
		list = append(list, fmt.Sprintf("%d replicated tables were taken from this replica alone; restoring them into a scratch database is not supported: %s", n, strings.Join(replicated[:min(n, namesMax)], ", ")))
	}
	return list
}
