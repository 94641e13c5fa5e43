package main

import (
	"context"

	"go.uber.org/zap"

	"github.com/brokerd/brokerd/cmd/internal/cli"
	"github.com/brokerd/brokerd/dataflow"
)

// reload reads the files again: token and certificates, and the dataflows. If anything is wrong
// with one of these two, it stays as it is, and the other is renewed all the same.
func (s *service) reload() {
	s.notifier.reloading()
	// Also after a failure: the service is up, with what it had.
	defer func() {
		s.notifier.reloaded()
		s.tellStatus()
	}()
	s.renew()
	flows, warnings, err := loadFlows(s.config.Dataflows, s.config.Strict)
	logWarnings(s.log, warnings)
	if err != nil {
		problems := cli.Problems(err)
		for _, problem := range problems {
			s.log.Error("dataflow file is wrong", problemFields(problem)...)
		}
		s.log.Error("reload refused, the dataflows stay as they are", zap.Int("problems", len(problems)))
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	changes, err := s.broker.Reload(ctx, flows)
	if err != nil {
		s.log.Error("reload failed", zap.Error(err))
		return
	}
	// What the changes are, the broker has logged.
	s.log.Info("reloaded", zap.Int("dataflows", len(flows)), zap.Int("changes", len(changes)))
}

// renew puts in force what the files of token and certificates hold now.
func (s *service) renew() {
	credentials, warnings, err := s.config.credentials()
	for _, warning := range warnings {
		s.log.Warn("odd configuration", zap.String("warning", warning))
	}
	if err == nil {
		err = s.broker.Renew(credentials)
	}
	if err != nil {
		s.log.Error("reload refused, the credentials stay as they are", zap.Error(err))
	}
}

func logWarnings(log *zap.Logger, warnings []dataflow.Warning) {
	for _, warning := range warnings {
		log.Warn("dataflow file is odd", problemFields(dataflow.Problem(warning))...)
	}
}

// problemFields are the parts of a problem that a log line has room for; the
// excerpt is for terminals.
func problemFields(p dataflow.Problem) []zap.Field {
	fields := []zap.Field{zap.String("place", p.Place()), zap.String("problem", p.Message)}
	if p.Suggestion != "" {
		fields = append(fields, zap.String("suggestion", p.Suggestion))
	}
	return fields
}
