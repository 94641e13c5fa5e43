package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap/zapcore"
)

// journalCore writes entries to systemd's journal in its native form.
//
// The message is the same JSON line that every other place gets, so that
// `journalctl -o cat` feeds the tools that read our log files. Beside it each
// field is one of the journal's own, which makes
// `journalctl -u brokerd BROKERD_REASON=queue_full` an indexed look-up.
type journalCore struct {
	zapcore.LevelEnabler
	encoder  zapcore.Encoder
	fields   []zapcore.Field
	send     func(message string, priority journal.Priority, fields map[string]string) error
	fallback zapcore.WriteSyncer // when the journal's socket fails; journald reads it line by line
}

func newJournalCore(level zapcore.LevelEnabler, send func(string, journal.Priority, map[string]string) error, fallback zapcore.WriteSyncer) *journalCore {
	return &journalCore{
		LevelEnabler: level,
		encoder:      zapcore.NewJSONEncoder(jsonEncoding()),
		send:         send,
		fallback:     fallback,
	}
}

// With returns a core that adds fields to every entry.
func (c *journalCore) With(fields []zapcore.Field) zapcore.Core {
	derived := *c
	derived.encoder = c.encoder.Clone()
	for _, field := range fields {
		field.AddTo(derived.encoder)
	}
	derived.fields = append(c.fields[:len(c.fields):len(c.fields)], fields...)
	return &derived
}

// Check adds the core to entries of its level.
func (c *journalCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// Write sends one entry.
func (c *journalCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	line, err := c.encoder.EncodeEntry(entry, fields)
	if err != nil {
		return err
	}
	defer line.Free()
	message := string(bytes.TrimRight(line.Bytes(), "\n"))
	if c.send(message, journalPriority(entry.Level), c.journalFields(entry, fields)) == nil {
		return nil
	}
	_, err = fmt.Fprintf(c.fallback, "<%d>%s\n", journalPriority(entry.Level), message)
	return err
}

// Sync does nothing: every entry is sent at once.
func (c *journalCore) Sync() error { return nil }

func (c *journalCore) journalFields(entry zapcore.Entry, fields []zapcore.Field) map[string]string {
	object := zapcore.NewMapObjectEncoder()
	for _, field := range c.fields {
		field.AddTo(object)
	}
	for _, field := range fields {
		field.AddTo(object)
	}
	named := map[string]string{"SYSLOG_IDENTIFIER": "brokerd", "BROKERD_MSG": entry.Message}
	if entry.LoggerName != "" {
		named["BROKERD_LOGGER"] = entry.LoggerName
	}
	flatten(named, strings.TrimSuffix(envPrefix, "_"), object.Fields)
	return named
}

// flatten names nested fields by the path to them. The prefix keeps our names
// apart from those that mean something to the journal itself.
func flatten(into map[string]string, prefix string, object map[string]any) {
	for key, value := range object {
		name := prefix + "_" + journalName(key)
		if nested, ok := value.(map[string]any); ok {
			flatten(into, name, nested)
			continue
		}
		into[name] = journalText(value)
	}
}

func journalText(value any) string {
	switch value := value.(type) {
	case string:
		return value
	case time.Duration: // in the unit of the JSON line
		return strconv.FormatFloat(value.Seconds(), 'f', -1, 64)
	case time.Time:
		return value.UTC().Format(time.RFC3339Nano)
	case []any:
		if text, err := json.Marshal(value); err == nil {
			return string(text)
		}
	}
	return fmt.Sprint(value)
}

// journalName brings a key into the letters that the journal allows.
func journalName(key string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
}

func journalPriority(level zapcore.Level) journal.Priority {
	switch {
	case level < zapcore.InfoLevel:
		return journal.PriDebug
	case level < zapcore.WarnLevel:
		return journal.PriInfo
	case level < zapcore.ErrorLevel:
		return journal.PriWarning
	case level < zapcore.DPanicLevel:
		return journal.PriErr
	}
	return journal.PriCrit
}
