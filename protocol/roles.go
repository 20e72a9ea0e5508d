package protocol

import (
	"cmp"

	"github.com/nats-io/nats-server/v2/server"
)

// Role is what a process does on the bus. It decides what the process may
// publish and subscribe to, and which streams and buckets it sets up.
type Role string

// The roles. An operator may do everything: it watches, administers and, in
// tests, plays any part.
const (
	RoleActor      Role = "actor"
	RoleReplay     Role = "replay"
	RoleLearner    Role = "learner"
	RoleDispatcher Role = "dispatcher" // answers where jobs shall go
	RoleClient     Role = "client"     // asks a dispatcher
	RoleOperator   Role = "operator"
)

// Roles are all roles.
var Roles = [...]Role{RoleActor, RoleReplay, RoleLearner, RoleDispatcher, RoleClient, RoleOperator}

func (r Role) valid() bool {
	for _, role := range Roles {
		if r == role {
			return true
		}
	}
	return false
}

// inbox is the role's prefix of reply subjects: one each, so that no role can
// listen to another's replies.
func (r Role) inbox() string { return "_INBOX_" + string(r) }

// permissions lists what a user may say and hear. The operator's are nil:
// everything.
func (u user) permissions() *server.Permissions {
	inbox := u.role.inbox() + ".>"
	switch u.role {
	case RoleActor:
		run := cmp.Or(u.run, "*")
		return allow(
			[]string{
				trajSubject(run, "*"), trajSubject(run, "*.*"), paramGetSubject(run), "$KV.hb." + run + ".actor.*", viewSubject(run, "*"),
				"$JS.API.STREAM.INFO.KV_cfg",
				"$JS.API.DIRECT.GET.KV_cfg.$KV.cfg." + run + ".config", "$JS.API.DIRECT.GET.KV_cfg.$KV.cfg." + run + ".lease",
			},
			[]string{paramSubject(run), flowSubject(run), flowSubject(run) + ".*", lookSubject(run, "*"), inbox})
	case RoleReplay:
		return allow(
			[]string{
				"flow.*", "flow.*.*", "dead.*", "$KV.hb.*.replay.*", "$SRV.>", RoleLearner.inbox() + ".>",
				"$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*", "$JS.API.STREAM.INFO.*",
				"$JS.API.CONSUMER.CREATE.TRAJ.>", "$JS.API.CONSUMER.INFO.TRAJ.*",
				"$JS.API.CONSUMER.MSG.NEXT.TRAJ.*", "$JS.ACK.TRAJ.>",
				"$JS.API.DIRECT.GET.KV_cfg.>",
			},
			[]string{"batch.*.*", "batch.*.*.*", "flow.*.*", "$SRV.>", inbox})
	case RoleLearner: // that of an on-policy algorithm takes the trajectories itself
		return allow(
			[]string{
				"params.*.chunk", "batch.*.*", "batch.*.*.*", "dead.*", RoleActor.inbox() + ".>",
				"$KV.cfg.>", "$KV.curves.*", "$KV.hb.*.learner.*", "$O.CKPT.>", "$JS.FC.>", "$JS.ACK.TRAJ.>",
				"$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.NAMES",
				"$JS.API.STREAM.PURGE.OBJ_CKPT", "$JS.API.STREAM.MSG.GET.OBJ_CKPT", "$JS.API.DIRECT.GET.>", "$JS.API.CONSUMER.>",
			},
			[]string{"params.*.get", "flow.*", "flow.*.*", inbox})
	case RoleDispatcher:
		return allow(
			[]string{
				"$SRV.>", RoleClient.inbox() + ".>", RoleOperator.inbox() + ".>", inbox, "dispatch.*.status", alarmSubject("*"), trajSubject("*", "*"),
				"$KV.hb.*.dispatcher.*", "$JS.API.STREAM.INFO.KV_cfg", "$JS.API.DIRECT.GET.KV_cfg.>",
				"$JS.API.STREAM.INFO.OBJ_CKPT", "$JS.API.STREAM.MSG.GET.OBJ_CKPT", "$JS.API.DIRECT.GET.OBJ_CKPT.>",
				"$JS.API.CONSUMER.CREATE.OBJ_CKPT.>", "$JS.API.CONSUMER.INFO.OBJ_CKPT.>", "$JS.API.CONSUMER.DELETE.OBJ_CKPT.>", "$JS.FC.OBJ_CKPT.>",
			},
			[]string{"dispatch.>", "$SRV.>", inbox})
	case RoleClient:
		return allow([]string{"dispatch.*.decide", "dispatch.*.complete", "dispatch.*.status"}, []string{inbox})
	default:
		return nil
	}
}

func allow(publish, subscribe []string) *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: subscribe},
	}
}
