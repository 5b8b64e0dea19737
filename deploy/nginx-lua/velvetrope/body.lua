-- What a request to a model API asked: the text of its body, by the rules of docs/formats.md. What
-- is no text in it (images, arguments that are objects) is told apart, in a spelling of its own.
local cjson = require "cjson.safe"
local digest = require "velvetrope.digest"

local _M = {}
local FIELDS = { "messages", "contents", "input", "inputs", "instances", "prompt", "text", "texts",
  "query", "features", "data", "dataframe_split" }
local PARAMETERS = {
  temperature = "temperature", top_p = "top_p", topP = "top_p", top_k = "top_k", topK = "top_k",
  n = "n", best_of = "n", candidateCount = "n", max_tokens = "max_tokens",
  max_completion_tokens = "max_tokens", max_output_tokens = "max_tokens",
  max_new_tokens = "max_tokens", maxOutputTokens = "max_tokens", logprobs = "logprobs",
  responseLogprobs = "logprobs", top_logprobs = "top_logprobs", logit_bias = "logit_bias",
  reasoning = "reasoning", reasoning_effort = "reasoning", thinking = "reasoning", seed = "seed",
  stream = "stream", frequency_penalty = "frequency_penalty",
  presence_penalty = "presence_penalty", echo = "echo",
}
local MOST_TEXT = 64
local MOST_NUMBER = 1e15
local VECTORS = {}  -- instead of a text: numbers, which a sketch does not hold

local values

-- {text, vectors, params, model}: a text, or `vectors` true, or neither when none was found.
function _M.read(body)
  local value = cjson.decode(body)
  if type(value) ~= "table" then
    if type(value) == "string" or not _M.is_text(body) then
      return {}
    end
    return { text = body }
  end
  local found
  if value[1] ~= nil then
    found = values(value)
  else
    found = _M.input_of(value)
  end
  local model = value.model
  local asked = { params = _M.parameters(value) }
  if type(model) == "string" and model ~= "" then
    asked.model = model
  end
  if found == VECTORS then
    asked.vectors = true
  else
    asked.text = found
  end
  return asked
end

local function is_set(value)
  return value ~= nil and value ~= cjson.null and value ~= "" and value ~= false
    and not (type(value) == "table" and next(value) == nil)
end

local function is_list(value)
  return type(value) == "table" and value[1] ~= nil
end

local function is_object(value)
  return type(value) == "table" and value[1] == nil and next(value) ~= nil
end

-- JSON with its names in order: the same for the same value.
local function encode(value)
  if type(value) ~= "table" then
    return cjson.encode(value)
  end
  local parts = {}
  if is_list(value) then
    for i, one in ipairs(value) do
      parts[i] = encode(one)
    end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  local names = {}
  for name in pairs(value) do
    names[#names + 1] = name
  end
  table.sort(names)
  for i, name in ipairs(names) do
    parts[i] = cjson.encode(name) .. ":" .. encode(value[name])
  end
  return "{" .. table.concat(parts, ",") .. "}"
end

local function call_of(call)
  if type(call) ~= "table" then
    return ""
  end
  local arguments = call.arguments
  if arguments == nil then
    arguments = call.input
  end
  if arguments == nil then
    arguments = call.args
  end
  if type(arguments) ~= "string" then
    arguments = arguments ~= nil and arguments ~= cjson.null and encode(arguments) or ""
  end
  return string.format("%s(%s)", type(call.name) == "string" and call.name or "None", arguments)
end

-- Add the texts of a message's content to `parts`.
local function add_parts(content, parts)
  if type(content) == "string" then
    if content ~= "" then
      parts[#parts + 1] = content
    end
  elseif is_list(content) then
    for _, part in ipairs(content) do
      add_parts(part, parts)
    end
  elseif is_object(content) then
    for _, field in ipairs({ "text", "thinking", "refusal" }) do
      if type(content[field]) == "string" then
        return add_parts(content[field], parts)
      end
    end
    local kind = content.type
    if kind == "tool_use" or kind == "server_tool_use" then
      parts[#parts + 1] = call_of(content)
    elseif kind == "tool_result" or content.parts ~= nil then
      local inner = content.content
      if inner == nil then
        inner = content.parts
      end
      add_parts(inner, parts)
    elseif type(content.functionCall) == "table" then
      parts[#parts + 1] = call_of(content.functionCall)
    else
      local name = type(kind) == "string" and kind or tostring((next(content)))
      parts[#parts + 1] = string.format("[%s %s]", string.sub(name, 1, MOST_TEXT),
        string.sub(digest.sha256_hex(encode(content)), 1, 16))
    end
  end
end

-- Add (role, text) of one message to `said`.
local function add_turn(message, said)
  if type(message) == "string" then
    if message ~= "" then
      said[#said + 1] = { "user", message }
    end
    return
  end
  if type(message) ~= "table" then
    return
  end
  if message.type == "function_call" then
    said[#said + 1] = { "assistant", call_of(message) }
    return
  end
  local role = type(message.role) == "string" and message.role ~= "" and message.role or "user"
  local content = message.content
  if content == nil then
    content = message.parts
  end
  if message.type == "function_call_output" then
    role, content = "tool", message.output
  end
  local parts = {}
  add_parts(content, parts)
  if is_list(message.tool_calls) then
    for _, call in ipairs(message.tool_calls) do
      if type(call) == "table" then
        parts[#parts + 1] = call_of(call["function"] or call)
      end
    end
  end
  if type(message.function_call) == "table" then
    parts[#parts + 1] = call_of(message.function_call)
  end
  local kept = {}
  for _, part in ipairs(parts) do
    if part ~= "" then
      kept[#kept + 1] = part
    end
  end
  if #kept > 0 then
    said[#said + 1] = { role, table.concat(kept, "\n") }
  end
end

-- Messages as one text: `role: text` a line; a lone user message is its text alone.
local function conversation(messages)
  local said = {}
  for _, message in ipairs(messages) do
    add_turn(message, said)
  end
  if #said == 0 then
    return nil
  end
  if #said == 1 and said[1][1] == "user" then
    return said[1][2]
  end
  local lines = {}
  for i, turn in ipairs(said) do
    lines[i] = turn[1] .. ": " .. turn[2]
  end
  return table.concat(lines, "\n")
end

local function conversation_after(head, messages)
  local turns = {}
  if is_set(head) then
    turns[1] = { role = "system", content = head }
  end
  if is_list(messages) then
    for _, message in ipairs(messages) do
      turns[#turns + 1] = message
    end
  else
    turns[#turns + 1] = messages
  end
  return conversation(turns)
end

local function numbers_alone(value)
  if type(value) == "table" then
    for _, inner in pairs(value) do
      if not numbers_alone(inner) then
        return false
      end
    end
    return true
  end
  return type(value) == "number" or type(value) == "boolean"
end

local function rows(list)
  if numbers_alone(list) then
    return VECTORS
  end
  local lines = {}
  for i, row in ipairs(list) do
    lines[i] = encode(row)
  end
  return table.concat(lines, "\n")
end

-- The text of one content field, whatever its shape; or VECTORS.
function values(value)
  if type(value) == "string" then
    return value
  end
  if is_object(value) then
    local name, only = next(value)
    if next(value, name) == nil and is_list(only) then
      return values(only)
    end
    return rows({ value })
  end
  if not is_list(value) then
    return nil
  end
  local first = value[1]
  if type(first) == "string" then
    local texts = {}
    for _, text in ipairs(value) do
      if type(text) == "string" then
        texts[#texts + 1] = text
      end
    end
    return table.concat(texts, "\n")
  end
  if is_object(first) then
    if first.datatype ~= nil and is_list(first.data) then
      local inner = first.data[1]
      return type(inner) == "string" and values(first.data) or VECTORS
    end
    if first.role ~= nil or first.type ~= nil or first.parts ~= nil then
      return conversation(value)
    end
  end
  return rows(value)
end

function _M.input_of(body)
  for _, field in ipairs(FIELDS) do
    local value = body[field]
    if value == false or is_set(value) then
      if field == "messages" or field == "contents" then
        local head = is_set(body.system) and body.system
          or is_set(body.systemInstruction) and body.systemInstruction or body.instructions
        return conversation_after(head, value)
      end
      if field == "input" and is_set(body.instructions) then
        return conversation_after(body.instructions, value)
      end
      if field == "prompt" and is_list(value) then
        local first = is_list(value[1]) and value[1][1] or value[1]
        if type(first) == "number" then
          return _M.token_text(value)
        end
      end
      if field == "dataframe_split" and is_object(value) then
        value = value.data
      end
      return values(value)
    end
  end
end

function _M.token_text(value)
  local ids = {}
  local function add(one)
    if type(one) == "table" then
      for _, inner in ipairs(one) do
        add(inner)
      end
    elseif type(one) == "number" then
      ids[#ids + 1] = string.format("%.0f", one)
    end
  end
  add(value)
  return table.concat(ids, " ")
end

local function is_plain(value)
  local kind = type(value)
  if kind == "boolean" then
    return true
  elseif kind == "number" then
    return math.abs(value) < MOST_NUMBER
  elseif kind == "string" then
    return #value <= MOST_TEXT
  end
  return false
end

-- One level of plain values: logit_bias, reasoning.
local function is_plain_object(value)
  if type(value) ~= "table" or value[1] ~= nil then
    return false
  end
  for _, inner in pairs(value) do
    if inner ~= cjson.null and not is_plain(inner) then
      return false
    end
  end
  return true
end

-- The parameters that say how the model was asked; nil when there are none. Their names are the
-- request's own: the detector knows them.
function _M.parameters(source)
  local found, any = {}, false
  local function keep(name, value)
    found[name] = value
    any = true
  end
  for name, value in pairs(source) do
    if PARAMETERS[name] and (is_plain(value) or is_plain_object(value)) then
      keep(PARAMETERS[name], value)
    elseif (name == "generationConfig" or name == "parameters") and is_object(value) then
      for inner, plain in pairs(value) do
        if PARAMETERS[inner] and (is_plain(plain) or is_plain_object(plain)) then
          keep(PARAMETERS[inner], plain)
        end
      end
    elseif name == "tools" and is_list(value) then
      -- Their number is what counts: what they hold is the application's.
      local tools = {}
      for i = 1, #value do
        tools[i] = 0
      end
      keep("tools", tools)
    elseif name == "response_format" and type(value) == "table" and type(value.type) == "string" then
      keep("response_format", { type = string.sub(value.type, 1, MOST_TEXT) })
    end
  end
  return any and found or nil
end

-- Whether it reads as text: no control characters.
function _M.is_text(body)
  return not string.find(string.sub(body, 1, 4096), "[%z\1-\8\11\12\14-\31]")
end

return _M
