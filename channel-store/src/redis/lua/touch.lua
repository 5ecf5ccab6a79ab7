-- touch: keeps a channel, its log and its members from expiring, and tells where the log ends. Not flagged no-writes: so
-- a replica refuses it (READONLY).
--
-- KEYS  1 meta  2 log  3 sessions  4 users  5 detached  6 incarnations
-- ARGV  1 seconds the log lives, and 2 meta and members do, where meta doesn't say (k, as append.lua notes it)
-- reply { epoch, offset }, both nil for a channel without a life
local m = redis.call('HMGET', KEYS[1], 'e', 'n', 'k')
local log_life, life = string.match(m[3] or '', '^(%d+) (%d+)$')
redis.call('EXPIRE', KEYS[2], log_life or ARGV[1])
for _, key in ipairs({ KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[6] }) do redis.call('EXPIRE', key, life or ARGV[2]) end
return { m[1], m[2] }
