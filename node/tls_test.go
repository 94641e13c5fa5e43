package node

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTLSFromEnv(t *testing.T) {
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk.pem")
	if err := os.WriteFile(junk, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  map[string]string
		want string // part of the error; empty: none
	}{
		"nothing":           {nil, ""},
		"system":            {map[string]string{EnvTLSCA: "system"}, ""},
		"name only":         {map[string]string{EnvTLSName: "broker.example"}, ""},
		"no file":           {map[string]string{EnvTLSCA: filepath.Join(dir, "none")}, EnvTLSCA},
		"junk":              {map[string]string{EnvTLSCA: junk}, "no certificate in PEM form"},
		"cert without key":  {map[string]string{EnvTLSCert: junk}, "belong together"},
		"key without cert":  {map[string]string{EnvTLSKey: junk}, "belong together"},
		"junk for own cert": {map[string]string{EnvTLSCert: junk, EnvTLSKey: junk}, EnvTLSCert},
	} {
		t.Run(name, func(t *testing.T) {
			for _, variable := range []string{EnvTLSCA, EnvTLSName, EnvTLSCert, EnvTLSKey} {
				t.Setenv(variable, c.env[variable])
			}
			config, err := TLSFromEnv()
			if c.want != "" {
				if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, %v", config, err)
				}
				return
			}
			if err != nil || (config == nil) != (len(c.env) == 0) {
				t.Errorf("%v, %v", config, err)
			}
			if config != nil && (config.MinVersion != tls.VersionTLS13 || config.InsecureSkipVerify || config.ServerName != c.env[EnvTLSName]) {
				t.Errorf("%+v", config)
			}
		})
	}
}
