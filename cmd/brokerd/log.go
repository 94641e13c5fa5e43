package main

import (
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"
)

// Log formats. The journal is not among them: it is only ever found, never
// asked for, since nobody else reads its socket.
const (
	logAuto    = "auto"
	logJSON    = "json"
	logConsole = "console"
)

// newLogger returns the logger that the settings ask for. Nothing is sampled:
// the counts of the drop log must add up.
func newLogger(s *settings, stderr *os.File) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(s.LogLevel)
	if err != nil {
		return nil, fmt.Errorf("log_level: %w", err)
	}
	terminal := term.IsTerminal(int(stderr.Fd()))
	out := zapcore.Lock(stderr)
	var core zapcore.Core
	switch format := s.LogFormat; {
	case format == logConsole || format == logAuto && terminal:
		core = zapcore.NewCore(zapcore.NewConsoleEncoder(consoleEncoding(terminal && os.Getenv("NO_COLOR") == "")), out, level)
	case format == logAuto && stderrIsJournal():
		core = newJournalCore(level, journal.Send, out)
	default:
		core = zapcore.NewCore(zapcore.NewJSONEncoder(jsonEncoding()), out, level)
	}
	// Without an output for its own errors, zap would write them in a form of
	// its own between our lines.
	return zap.New(core, zap.ErrorOutput(out)), nil
}

// stderrIsJournal tells whether systemd connected our stderr to the journal. A
// malformed JOURNAL_STREAM means the plain way, which always works.
func stderrIsJournal() bool {
	connected, err := journal.StderrIsJournalStream()
	return err == nil && connected
}

func jsonEncoding() zapcore.EncoderConfig {
	return zapcore.EncoderConfig{
		LevelKey:       "level",
		TimeKey:        "ts",
		NameKey:        "logger",
		MessageKey:     "msg",
		LineEnding:     zapcore.DefaultLineEnding,
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeTime:     encodeTime,
		EncodeDuration: zapcore.SecondsDurationEncoder,
		EncodeName:     zapcore.FullNameEncoder,
	}
}

// encodeTime writes RFC 3339 with all nine digits, so that lines align and sort.
func encodeTime(t time.Time, into zapcore.PrimitiveArrayEncoder) {
	into.AppendString(t.UTC().Format("2006-01-02T15:04:05.000000000Z07:00"))
}

func consoleEncoding(colour bool) zapcore.EncoderConfig {
	config := jsonEncoding()
	config.EncodeTime = func(t time.Time, into zapcore.PrimitiveArrayEncoder) {
		into.AppendString(t.Format("15:04:05.000"))
	}
	config.EncodeDuration = zapcore.StringDurationEncoder
	config.EncodeLevel = zapcore.CapitalLevelEncoder
	if colour {
		config.EncodeLevel = zapcore.CapitalColorLevelEncoder
	}
	config.ConsoleSeparator = "  "
	return config
}
