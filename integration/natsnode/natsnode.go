// Package natsnode starts a NATS cluster of real processes on loopback, so that its
// nodes can be killed, stopped and started again. A node is the server that the module
// pins, run by the test binary itself on the configuration of docs/examples/cluster.
package natsnode

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// envConfig names the configuration of the node that a process is to become.
const envConfig = "GROUT_NATS_NODE"

const startWithin = 30 * time.Second

// Launch makes this process a node when it was started as one, and never returns then.
// TestMain calls it first.
func Launch() {
	path := os.Getenv(envConfig)
	if path == "" {
		return
	}
	if err := serve(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(path string) error {
	opts, err := server.ProcessConfigFile(path)
	if err != nil {
		return err
	}
	opts.NoSigs = true
	opts.Logtime = true
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	s.ConfigureLogger()
	s.Start()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// Passwords of the users of docs/examples/cluster/accounts.conf, another one each time.
type Passwords struct{ Grout, Admin, Platform, Consumer, Plugin, System string }

// Cluster is a running cluster.
type Cluster struct {
	Nodes     []*Node
	Passwords Passwords
	dir       string
	client    []nats.Option
}

// Node is one server of a cluster. Its ports stay the same when it is started again.
type Node struct {
	Name, URL string
	dir       string
	env       []string
	mu        sync.Mutex
	cmd       *exec.Cmd
	ended     chan struct{}
}

// Options change what a cluster is; the zero value is three nodes on the examples.
type Options struct {
	Nodes int // 3
	// More is added to the configuration of every node.
	More string
	// Advertise gives the address at which clients are told to find a node, by its own;
	// nil: its own.
	Advertise func(address string) (string, error)
	// Accounts changes accounts.conf; nil leaves it as it is.
	Accounts func(text string) string
	// Client is what clients need beside a user and a password.
	Client []nats.Option
}

// Start starts a cluster in a directory and waits until JetStream has a leader. The
// nodes end with the process that starts them.
func Start(ctx context.Context, dir string, o Options) (_ *Cluster, err error) {
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	word := func() string { return "p-" + strings.ToLower(rand.Text()) }
	c := &Cluster{dir: dir, client: o.Client, Passwords: Passwords{word(), word(), word(), word(), word(), word()}}
	defer func() {
		if err != nil {
			c.Stop()
		}
	}()
	if err := c.writeConfig(&o); err != nil {
		return nil, err
	}
	ports, err := freePorts(2 * o.Nodes)
	if err != nil {
		return nil, err
	}
	var routes []string
	for _, port := range ports[o.Nodes:] {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", port))
	}
	for i := range o.Nodes {
		address := fmt.Sprintf("127.0.0.1:%d", ports[i])
		advertise := address
		if o.Advertise != nil {
			if advertise, err = o.Advertise(address); err != nil {
				return nil, err
			}
		}
		name := fmt.Sprintf("n%d", i+1)
		c.Nodes = append(c.Nodes, &Node{Name: name, URL: "nats://" + address, dir: dir, env: append(os.Environ(),
			envConfig+"="+filepath.Join(dir, "nats.conf"),
			"NATS_NAME="+name, "NATS_LISTEN="+address, "NATS_ADVERTISE="+advertise, "NATS_MONITOR=127.0.0.1:-1",
			"NATS_STORE="+filepath.Join(dir, name), fmt.Sprintf("NATS_CLUSTER_LISTEN=127.0.0.1:%d", ports[o.Nodes+i]),
			"NATS_ROUTES=["+strings.Join(routes, ", ")+"]")})
	}
	for _, n := range c.Nodes {
		if err := n.Start(); err != nil {
			return nil, err
		}
	}
	return c, c.Ready(ctx)
}

// writeConfig copies the examples as they are.
func (c *Cluster) writeConfig(o *Options) error {
	_, here, _, _ := runtime.Caller(0)
	from := filepath.Join(filepath.Dir(here), "..", "..", "docs", "examples", "cluster")
	for _, name := range []string{"nats.conf", "accounts.conf"} {
		text, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		switch {
		case name == "nats.conf":
			text = append(text, o.More...)
		case o.Accounts != nil:
			text = []byte(o.Accounts(string(text)))
		}
		if err := os.WriteFile(filepath.Join(c.dir, name), text, 0o600); err != nil {
			return err
		}
	}
	p := c.Passwords
	text := fmt.Sprintf("grout_password: %q\nadmin_password: %q\nplatform_password: %q\nconsumer_password: %q\nplugin_password: %q\nsystem_password: %q\n",
		p.Grout, p.Admin, p.Platform, p.Consumer, p.Plugin, p.System)
	return os.WriteFile(filepath.Join(c.dir, "passwords.conf"), []byte(text), 0o600)
}

func freePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// URLs are the addresses of all nodes, as NATS_URL takes them.
func (c *Cluster) URLs() string {
	var list []string
	for _, n := range c.Nodes {
		list = append(list, n.URL)
	}
	return strings.Join(list, ",")
}

// Connect connects as a user of the examples.
func (c *Cluster) Connect(user, password string, more ...nats.Option) (*nats.Conn, error) {
	return nats.Connect(c.URLs(), slices.Concat([]nats.Option{nats.UserInfo(user, password), nats.Timeout(2 * time.Second)}, c.client, more)...)
}

// Ready waits until JetStream answers in the account of grout.
func (c *Cluster) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.answers()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the cluster in %s was not ready in time: %w", c.dir, err)
		}
	}
}

// answers has JetStream make a stream with a copy on every node, and remove it.
func (c *Cluster) answers() error {
	nc, err := c.Connect("grout", c.Passwords.Grout, nats.MaxReconnects(0))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := nc.JetStream(nats.MaxWait(2 * time.Second))
	if err != nil {
		return err
	}
	if _, err := js.AddStream(&nats.StreamConfig{Name: "NATSNODE_PROBE", Subjects: []string{"natsnode.probe"}, Replicas: len(c.Nodes)}); err != nil {
		return err
	}
	return js.DeleteStream("NATSNODE_PROBE")
}

// Stop ends every node.
func (c *Cluster) Stop() {
	for _, n := range c.Nodes {
		n.Kill()
	}
}

// Start starts the node. It does not wait until it works.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		return errors.New("the node runs already")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(n.dir, n.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(self)
	cmd.Env, cmd.Stdout, cmd.Stderr = n.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start node %s: %w", n.Name, err)
	}
	ended := make(chan struct{})
	n.cmd, n.ended = cmd, ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	return nil
}

// Kill ends the node with SIGKILL and waits for its end. It can be started again.
func (n *Node) Kill() { n.end(syscall.SIGKILL) }

// Terminate ends the node with SIGTERM.
func (n *Node) Terminate() { n.end(syscall.SIGTERM) }

func (n *Node) end(sig syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Signal(sig)
	if sig != syscall.SIGKILL { // one that is paused takes no other
		_ = n.cmd.Process.Signal(syscall.SIGCONT)
	}
	<-n.ended
	n.cmd = nil
}

// Pause stops the node as it is, with its connections open.
func (n *Node) Pause() { n.signal(syscall.SIGSTOP) }

// Resume lets a paused node go on.
func (n *Node) Resume() { n.signal(syscall.SIGCONT) }

func (n *Node) signal(sig syscall.Signal) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cmd != nil {
		_ = n.cmd.Process.Signal(sig)
	}
}

// Log is the end of what the node has logged.
func (n *Node) Log() string {
	text, _ := os.ReadFile(filepath.Join(n.dir, n.Name+".log"))
	return string(text[max(0, len(text)-4000):])
}
