package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

type journalEntry struct {
	message  string
	priority journal.Priority
	fields   map[string]string
}

func journalLogger(entries *[]journalEntry, fail error, fallback *bytes.Buffer) *zap.Logger {
	send := func(message string, priority journal.Priority, fields map[string]string) error {
		*entries = append(*entries, journalEntry{message, priority, fields})
		return fail
	}
	return zap.New(newJournalCore(zapcore.InfoLevel, send, zapcore.AddSync(fallback)))
}

// The drop line has to keep every field, as a field of the journal and in the
// message.
func TestJournalKeepsTheDropLine(t *testing.T) {
	var entries []journalEntry
	log := journalLogger(&entries, nil, nil)
	log.Debug("below the level")
	log.Named("drop").With(zap.String("dataflow", "demo")).Warn("message dropped",
		zap.String("from", "camera/image"), zap.String("to", "slow/frame"), zap.String("reason", "queue_full"),
		zap.String("policy", "drop-oldest"), zap.Uint64("count", 97), zap.Uint64("total", 1204), zap.Uint64("bytes", 1<<33),
		zap.Uint64("seq_first", 1), zap.Uint64("seq_last", 97), zap.Int("queue_size", 1), zap.Float64("age_max_ms", 12.5), zap.String("path", "brokered"))
	if len(entries) != 1 {
		t.Fatalf("%d entries", len(entries))
	}
	e := entries[0]
	want := map[string]string{
		"SYSLOG_IDENTIFIER": "brokerd", "BROKERD_LOGGER": "drop", "BROKERD_MSG": "message dropped", "BROKERD_DATAFLOW": "demo",
		"BROKERD_FROM": "camera/image", "BROKERD_TO": "slow/frame", "BROKERD_REASON": "queue_full", "BROKERD_POLICY": "drop-oldest",
		"BROKERD_COUNT": "97", "BROKERD_TOTAL": "1204", "BROKERD_BYTES": "8589934592", "BROKERD_SEQ_FIRST": "1",
		"BROKERD_SEQ_LAST": "97", "BROKERD_QUEUE_SIZE": "1", "BROKERD_AGE_MAX_MS": "12.5", "BROKERD_PATH": "brokered",
	}
	if !maps.Equal(e.fields, want) {
		t.Errorf("fields %v", e.fields)
	}
	if e.priority != journal.PriWarning {
		t.Errorf("priority %d", e.priority)
	}
	line := map[string]any{}
	if err := json.Unmarshal([]byte(e.message), &line); err != nil {
		t.Fatal(err)
	}
	if line["msg"] != "message dropped" || line["dataflow"] != "demo" || line["count"] != 97.0 || line["logger"] != "drop" {
		t.Errorf("message %s", e.message)
	}
}

func TestJournalFieldForms(t *testing.T) {
	var entries []journalEntry
	log := journalLogger(&entries, nil, nil)
	parent := log.With(zap.String("a", "1"))
	parent.With(zap.String("b", "2")).Error("first", zap.Strings("list", []string{"x", "y"}), zap.Error(errors.New("no luck")),
		zap.Duration("wait_s", 1500*time.Millisecond), zap.String("odd-Key 1", "z"), zap.Dict("inner", zap.Int("n", 1)), zap.Bool("ok", true))
	parent.Info("second")
	want := map[string]string{
		"SYSLOG_IDENTIFIER": "brokerd", "BROKERD_MSG": "first", "BROKERD_A": "1", "BROKERD_B": "2", "BROKERD_LIST": `["x","y"]`,
		"BROKERD_ERROR": "no luck", "BROKERD_WAIT_S": "1.5", "BROKERD_ODD_KEY_1": "z", "BROKERD_INNER_N": "1", "BROKERD_OK": "true",
	}
	if !maps.Equal(entries[0].fields, want) {
		t.Errorf("fields %v", entries[0].fields)
	}
	if entries[0].priority != journal.PriErr || entries[1].priority != journal.PriInfo {
		t.Errorf("priorities %d, %d", entries[0].priority, entries[1].priority)
	}
	if _, leaked := entries[1].fields["BROKERD_B"]; leaked || entries[1].fields["BROKERD_A"] != "1" {
		t.Errorf("fields of the second entry: %v", entries[1].fields)
	}
}

func TestJournalFallsBack(t *testing.T) {
	var entries []journalEntry
	var stderr bytes.Buffer
	journalLogger(&entries, errors.New("no journal"), &stderr).Warn("still said", zap.Int("n", 1))
	if text := stderr.String(); !strings.HasPrefix(text, "<4>{") || !strings.Contains(text, `"msg":"still said","n":1}`) {
		t.Errorf("stderr %q", text)
	}
}
