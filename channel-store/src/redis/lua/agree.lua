-- agree: the first policy that was said holds until nobody has said it for its time. Allowed out of memory.
--
-- KEYS  1 login policy
-- ARGV  1 policy  2 milliseconds that it lasts
-- reply the one in force
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
