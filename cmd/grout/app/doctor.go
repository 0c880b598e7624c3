package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"grout/bus"
)

// DoctorReport is what was looked at.
type DoctorReport struct {
	OK    bool       `json:"ok"` // nothing failed
	Exams []bus.Exam `json:"checks"`
}

// Bounds of the disk under the data directory.
const (
	leastFree  = 256 * mib
	plentyFree = 2 * gib
)

// Doctor looks at what grout needs of this machine and of the bus, and changes nothing.
func Doctor(ctx context.Context, cfg Config) DoctorReport {
	d := &DoctorReport{}
	if err := cfg.Validate(); err != nil {
		d.add("settings", bus.ExamFailed, err.Error())
	} else {
		d.add("settings", bus.ExamOK, "")
	}
	d.dataDir(&cfg)
	d.secrets(&cfg)
	d.bus(ctx, &cfg)
	d.OK = !slices.ContainsFunc(d.Exams, func(e bus.Exam) bool { return e.Status == bus.ExamFailed })
	return *d
}

func (d *DoctorReport) add(check, status, detail string) {
	d.Exams = append(d.Exams, bus.Exam{Check: check, Status: status, Detail: detail})
}

func (d *DoctorReport) dataDir(cfg *Config) {
	path, err := filepath.Abs(cfg.DataDir)
	if err == nil {
		_, err = os.Stat(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		d.add("data directory", bus.ExamWarning, path+" is not there; grout serve makes it")
		return
	}
	if err == nil {
		err = unix.Access(path, unix.W_OK|unix.X_OK)
	}
	if err != nil {
		d.add("data directory", bus.ExamFailed, fmt.Sprintf("%s: %v", path, err))
		return
	}
	d.add("data directory", bus.ExamOK, path)
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		d.add("disk", bus.ExamFailed, err.Error())
		return
	}
	free := int64(fs.Bavail) * int64(fs.Bsize)
	detail := fmt.Sprintf("%d MiB free", free>>20)
	switch {
	case free < leastFree:
		d.add("disk", bus.ExamFailed, detail+": ingest is refused when it is full")
	case free < plentyFree:
		d.add("disk", bus.ExamWarning, detail)
	default:
		d.add("disk", bus.ExamOK, detail)
	}
}

// secrets looks at the files of generated secrets.
func (d *DoctorReport) secrets(cfg *Config) {
	files, err := filepath.Glob(filepath.Join(cfg.DataDir, "secrets", "*"))
	if err != nil || len(files) == 0 {
		return
	}
	for _, path := range files {
		if _, err := ReadSecret(path); err != nil {
			d.add("secrets", bus.ExamFailed, err.Error())
			return
		}
	}
	d.add("secrets", bus.ExamOK, fmt.Sprintf("%d files", len(files)))
}

func (d *DoctorReport) bus(ctx context.Context, cfg *Config) {
	roles := []bus.Role{
		{User: "platform", Password: first(cfg.PlatformPasswords)},
		{User: "consumer", Password: first(cfg.ConsumerPasswords)},
		{User: "admin", Password: first(cfg.AdminPasswords)},
		{User: "plugin", Password: first(cfg.PluginPasswords)},
	}
	if cfg.External() {
		d.Exams = append(d.Exams, bus.Examine(ctx, externalOptions(cfg, nil), busConfig(*cfg, nil), roles)...)
		return
	}
	lock, err := lockDataDir(cfg.DataDir)
	var used *inUseError
	switch {
	case err == nil:
		_ = lock.Close()
		d.add("bus", bus.ExamSkipped, "the server inside grout is not running")
	case errors.As(err, &used) && used.natsURL != "":
		d.running(ctx, cfg, used, roles)
	case errors.As(err, &used):
		d.add("bus", bus.ExamSkipped, "process "+used.pid+" runs here, and its NATS server listens nowhere")
	default:
		d.add("bus", bus.ExamFailed, err.Error())
	}
}

// running looks at the bus of the server that holds the data directory, as its operator.
func (d *DoctorReport) running(ctx context.Context, cfg *Config, used *inUseError, roles []bus.Role) {
	d.add("server", bus.ExamOK, "process "+used.pid+", NATS at "+used.natsURL)
	password, err := adminPassword(*cfg)
	if err != nil {
		d.add("bus", bus.ExamSkipped, err.Error())
		return
	}
	for i, name := range []string{"nats_platform_password", "nats_consumer_password", adminPasswordFile, PluginPasswordFile} {
		if text, err := ReadSecret(SecretPath(cfg.DataDir, name)); err == nil && roles[i].Password == "" {
			roles[i].Password = text
		}
	}
	o := bus.ExternalOptions{URLs: []string{used.natsURL}, User: "admin", Password: password, Beside: cfg.tlsFiles()}
	d.Exams = append(d.Exams, bus.ExamineEmbedded(ctx, o, busConfig(*cfg, nil), roles)...)
}

func first(s Secret) string {
	if len(s.Values) == 0 {
		return ""
	}
	return s.Values[0]
}
