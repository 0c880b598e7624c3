package bus

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

func serving(t *testing.T, s *Server, list ...Endpoint) *Endpoints {
	t.Helper()
	nc := connect(t, s)
	e := must1(ServeEndpoints(nc, "1.2.3", list))(t)
	t.Cleanup(func() { e.Close(0) })
	return e
}

func endpointOf(name string, most int, serve func(context.Context, []byte) Answer) Endpoint {
	saying := func(code, text string) func() Answer {
		return func() Answer { return Answer{Code: code, Detail: text, Data: []byte(text)} }
	}
	return Endpoint{
		Name: name, Request: "{}", Response: "{}", MaxBytes: 10, Most: most, TooLarge: saying("413", "too large"), Busy: saying("503", "busy"),
		Serve: func(ctx context.Context, _ map[string][]string, data []byte) Answer { return serve(ctx, data) },
	}
}

// TestEndpointsShareAndAreBounded: several nodes share the requests; each answers as many
// at once as it may and says so beyond that; what is too large is not looked at.
func TestEndpointsShareAndAreBounded(t *testing.T) {
	s, _ := pluginHouse(t)
	hold, entered := make(chan struct{}), make(chan struct{}, 100)
	var answered [2]atomic.Int32
	for i := range answered {
		serving(t, s,
			endpointOf("one.quick", 8, func(_ context.Context, data []byte) Answer {
				answered[i].Add(1)
				return Answer{Data: data, Header: map[string][]string{"X": {"y"}}}
			}),
			endpointOf(fmt.Sprint("one.slow", i), 2, func(ctx context.Context, _ []byte) Answer {
				entered <- struct{}{}
				select {
				case <-hold:
				case <-ctx.Done():
				}
				return Answer{Code: "404", Detail: "line one\r\nNats-Service-Error-Code: 200"}
			}))
	}
	nc := connect(t, s)
	ask := func(subject, data string) *nats.Msg {
		t.Helper()
		return must1(nc.Request(subject, []byte(data), 5*time.Second))(t)
	}
	for range 60 {
		if m := ask("mozaiks.v1.svc.one.quick", "hello"); string(m.Data) != "hello" || m.Header.Get("X") != "y" {
			t.Fatalf("%s %v", m.Data, m.Header)
		}
	}
	if a, b := answered[0].Load(), answered[1].Load(); a == 0 || b == 0 || a+b != 60 {
		t.Errorf("two nodes have answered %d and %d of 60", a, b)
	}
	if m := ask("mozaiks.v1.svc.one.quick", strings.Repeat("x", 11)); m.Header.Get(micro.ErrorCodeHeader) != "413" {
		t.Errorf("%s %v", m.Data, m.Header)
	}
	var waiting sync.WaitGroup
	for range 2 {
		waiting.Go(func() {
			if m, err := nc.Request("mozaiks.v1.svc.one.slow0", nil, 5*time.Second); err != nil || m.Header.Get(micro.ErrorCodeHeader) != "404" || strings.ContainsAny(m.Header.Get(micro.ErrorHeader), "\r\n") {
				t.Errorf("%v %v", err, m)
			}
		})
	}
	<-entered
	<-entered
	if m := ask("mozaiks.v1.svc.one.slow0", ""); m.Header.Get(micro.ErrorCodeHeader) != "503" {
		t.Errorf("a third at once: %s %v", m.Data, m.Header)
	}
	close(hold)
	waiting.Wait()
	ask("mozaiks.v1.svc.one.slow0", "")
}

// TestEndpointsAnswerInboxesOnly: nothing that grout says appears under a subject of its
// own, whatever reply subject a request has.
func TestEndpointsAnswerInboxesOnly(t *testing.T) {
	s, _ := pluginHouse(t)
	var asked atomic.Int32
	serving(t, s, endpointOf("one.quick", 1, func(_ context.Context, data []byte) Answer {
		asked.Add(1)
		return Answer{Data: data}
	}))
	nc := connect(t, s)
	heard := must1(nc.SubscribeSync("mozaiks.v1.evt.>"))(t)
	for _, reply := range []string{"mozaiks.v1.evt.app.usage.recorded", ""} {
		if err := nc.PublishMsg(&nats.Msg{Subject: "mozaiks.v1.svc.one.quick", Reply: reply, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	must1(nc.Request("mozaiks.v1.svc.one.quick", []byte("x"), 5*time.Second))(t) // behind them
	if n, _, _ := heard.Pending(); n != 0 || asked.Load() != 1 {
		t.Errorf("%d answers were heard, %d requests were answered", n, asked.Load())
	}
}

// TestEndpointsEnd: a stop waits for what is being answered, then ends it.
func TestEndpointsEnd(t *testing.T) {
	s, _ := pluginHouse(t)
	entered := make(chan struct{}, 1)
	e := serving(t, s, endpointOf("one.slow", 1, func(ctx context.Context, _ []byte) Answer {
		entered <- struct{}{}
		<-ctx.Done()
		return Answer{Code: "503", Detail: "stopped"}
	}))
	nc := connect(t, s)
	var m *nats.Msg
	var err error
	var waiting sync.WaitGroup
	waiting.Go(func() { m, err = nc.Request("mozaiks.v1.svc.one.slow", nil, 5*time.Second) })
	<-entered
	e.Close(time.Millisecond)
	waiting.Wait()
	if err != nil || m.Header.Get(micro.ErrorCodeHeader) != "503" {
		t.Errorf("%v %v", err, m)
	}
	if _, err := nc.Request("mozaiks.v1.svc.one.slow", nil, 5*time.Second); err == nil {
		t.Error("it still answers")
	}
	if st := e.counts["one-slow"].stats(); st.Answered != 1 || st.Errors != 1 || st.Refused != 0 {
		t.Errorf("it counts %+v", st)
	}
}
