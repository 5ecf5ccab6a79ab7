-- login_policy: the first policy that somebody proposes is in force until nobody has proposed it for its time. Allowed when
-- memory is full.
--
-- KEYS  1 login policy
-- ARGV  1 proposed policy  2 milliseconds that it lasts
-- reply the policy in force
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
