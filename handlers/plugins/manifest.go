package plugins

import (
	"time"
)

// manifest is what a plugin says of itself, with the defaults of what it leaves out.
type manifest struct {
	Name, Version, DisplayName, Description string
	Enabled                                 bool
	Kind                                    string
	Command                                 []string // of kind process; empty: the shim runs Entry
	Entry                                   string   // file of the plugin's code, in its folder; of kind go: the function
	Subject                                 string   // of kind nats; empty: that of the service with the plugin's name
	Env                                     map[string]string
	Limits                                  Limits
	RetryOnCrash                            bool
}

// Limits bound what a plugin may take.
type Limits struct {
	Timeout       time.Duration // of a call
	Concurrency   int           // calls at the same time, each with a worker of its own
	Queue         int           // calls that may wait for a worker
	QueueTimeout  time.Duration // how long they may
	MaxInputBytes int64         // of what a client sends
	MaxOutputBytes,
	MemoryBytes int64 // of a worker with all that it started
	CPU time.Duration // processor time of a call with all that it started; 0: what the timeout leaves
}

// Bounds of what a manifest may say.
const (
	maxTimeout      = 24 * time.Hour
	minTimeout      = time.Millisecond
	maxConcurrency  = 256
	maxQueue        = 10_000
	maxQueueTimeout = time.Hour
	maxExecuteBytes = 4 << 20 // contract §1
	minMemory       = 16 << 20
	maxMemory       = 1 << 40
	minCPU          = 10 * time.Millisecond

	maxManifestBytes = 256 << 10
	maxCommandArgs   = 64
	maxCommandBytes  = 32 << 10
	maxEnv           = 100
	maxEnvBytes      = 32 << 10
	maxVersion       = 64
	maxDescription   = 2000
)

func defaultManifest(name string, timeout time.Duration) manifest {
	return manifest{
		Name: name, Version: "1.0.0", DisplayName: titleCase(name), Description: "Plugin for " + name,
		Enabled: true, Kind: kindProcess,
		Limits: Limits{
			Timeout: timeout, Concurrency: 4, Queue: 128, QueueTimeout: 10 * time.Second,
			MaxInputBytes: maxExecuteBytes, MaxOutputBytes: maxExecuteBytes, MemoryBytes: 512 << 20,
		},
	}
}

// titleCase writes a plugin's name as a title: my_plugin is My Plugin.
func titleCase(name string) string {
	text := []byte(name)
	start := true
	for i, c := range text {
		switch {
		case c == '_':
			text[i], start = ' ', true
		case c >= 'a' && c <= 'z':
			if start {
				text[i] = c - 'a' + 'A'
			}
			start = false
		default:
			start = true
		}
	}
	return string(text)
}

// backend names what runs the plugin: the file of its code, else its kind.
func (m *manifest) backend() string {
	if m.Kind == kindProcess && len(m.Command) == 0 {
		return m.Entry
	}
	return m.Kind
}

// infoOf tells of a plugin that was found in a folder.
func (m *manifest) infoOf(dir string) Info {
	return Info{
		Name: m.Name, DisplayName: m.DisplayName, Description: m.Description, Version: m.Version,
		Backend: m.backend(), Enabled: m.Enabled, Kind: m.Kind, Limits: m.Limits, RetryOnCrash: m.RetryOnCrash, Path: dir,
	}
}
